"""Tiny pipelines of the families that make sound: from T5, or from CLAP, T5 and a GPT-2 between them and the U-Net."""

import functools

from diffusers import (
    AudioLDM2Pipeline,
    AudioLDM2ProjectionModel,
    AudioLDM2UNet2DConditionModel,
    AutoencoderOobleck,
    EDMDPMSolverMultistepScheduler,
    StableAudioDiTModel,
    StableAudioPipeline,
)
from diffusers.pipelines.stable_audio import StableAudioProjectionModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    GPT2Config,
    GPT2LMHeadModel,
    RobertaTokenizer,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
)

from .families import Family, image_vae, quiet
from .image_families import scheduler
from .text import seeded, t5_encoder, t5_tokenizer, train


@functools.cache
def _roberta_vocabulary() -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    # Byte-level pairs between the special tokens: BOS, pad, EOS and unknown first, the mask last.
    first = ("<s>", "<pad>", "</s>", "<unk>")
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    merges = train(trained, trainers.BpeTrainer(vocab_size=500, show_progress=False))["merges"]
    tokens = [*first, *sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges), "<mask>"]
    return tuple(dict.fromkeys(tokens)), tuple(map(tuple, merges))


def roberta_tokenizer() -> RobertaTokenizer:
    """Return a fresh RoBERTa tokenizer, byte-level and sensitive to case and spaces."""
    tokens, merges = _roberta_vocabulary()
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    return RobertaTokenizer(vocab=vocabulary, merges=list(merges), model_max_length=77)


def clap(width: int = 32, projection: int = 24) -> ClapModel:
    """Return a CLAP of text of `width` and of sound, projected to the same width."""
    text = {
        "vocab_size": len(_roberta_vocabulary()[0]),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 80,
    }
    sound = {
        "hidden_size": 16,
        "patch_embeds_hidden_size": 8,
        "depths": [1, 1],
        "num_attention_heads": [1, 1],
        "num_hidden_layers": 2,
        "num_mel_bins": 16,
        "spec_size": 64,
        "window_size": 4,
    }
    config = ClapConfig(text_config=text, audio_config=sound, projection_dim=projection)
    return seeded(lambda: ClapModel(config))


def audio_ldm_2() -> AudioLDM2Pipeline:
    """Build AudioLDM 2: CLAP of 32, projected to 24, and T5 of 64 prompt a GPT-2 of 16."""
    language_model = GPT2Config(
        n_embd=16, n_layer=1, n_head=2, n_positions=256, vocab_size=16, bos_token_id=0, eos_token_id=0
    )
    unet = seeded(
        lambda: AudioLDM2UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=2,
            attention_head_dim=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=([None, 16, 64], [None, 16, 64]),
        )
    )
    vocoder = SpeechT5HifiGanConfig(
        model_in_dim=16,
        upsample_initial_channel=8,
        upsample_rates=[2, 2],
        upsample_kernel_sizes=[4, 4],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 1]],
        normalize_before=False,
    )
    return quiet(
        AudioLDM2Pipeline(
            vae=image_vae(colors=1),
            text_encoder=clap(),
            text_encoder_2=t5_encoder(64),
            projection_model=seeded(lambda: AudioLDM2ProjectionModel(24, 64, 16), gain=4),
            language_model=seeded(lambda: GPT2LMHeadModel(language_model), gain=10),
            tokenizer=roberta_tokenizer(),
            tokenizer_2=t5_tokenizer(),
            feature_extractor=ClapFeatureExtractor(),
            unet=unet,
            scheduler=scheduler(),
            vocoder=seeded(lambda: SpeechT5HifiGan(vocoder), gain=10),
        )
    )


def stable_audio() -> StableAudioPipeline:
    """Build Stable Audio, which reads T5 of the width of its conditioning."""
    vae = seeded(
        lambda: AutoencoderOobleck(
            encoder_hidden_size=4,
            downsampling_ratios=[1, 2],
            channel_multiples=[1, 2],
            decoder_channels=4,
            decoder_input_channels=4,
            audio_channels=2,
            sampling_rate=16,
        )
    )
    transformer = seeded(
        lambda: StableAudioDiTModel(
            sample_size=4,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            num_key_value_attention_heads=2,
            cross_attention_dim=16,
            time_proj_dim=8,
            global_states_input_dim=32,
            cross_attention_input_dim=16,
        ),
        gain=2,
    )
    projection = seeded(
        lambda: StableAudioProjectionModel(text_encoder_dim=64, conditioning_dim=16, min_value=0, max_value=32)
    )
    return quiet(
        StableAudioPipeline(
            vae=vae,
            text_encoder=t5_encoder(64),
            projection_model=projection,
            tokenizer=t5_tokenizer(),
            transformer=transformer,
            scheduler=EDMDPMSolverMultistepScheduler(),
        )
    )


FAMILIES = [
    Family("stable_audio", StableAudioPipeline, stable_audio, {"num_inference_steps": 2, "output_type": "np"}),
    Family("audio_ldm_2", AudioLDM2Pipeline, audio_ldm_2, {"num_inference_steps": 1, "max_new_tokens": 2}),
]
