"""What the models are before training: a tokenizer and the networks, small but in the classes the real ones use."""

import json
import random
from collections.abc import Sequence
from typing import Any

from captions import training_caption
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)
from world import random_toy

RESOLUTION = 64
NUM_MERGES = 640
NUM_TOKENIZER_CAPTIONS = 20_000
# Words that stay in pieces, because a class name of several tokens is a case that textual inversion has to handle.
SPLIT_WORDS = ("sunglasses", "teapot", "backpack", "umbrella")
BOS_TOKEN, EOS_TOKEN = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer() -> CLIPTokenizer:
    """Train a byte-level BPE on captions, laid out as CLIP's: bytes, bytes ending a word, merges, two special tokens.

    All 256 bytes are in the vocabulary, so any prompt can be encoded without unknown tokens.
    """
    rng = random.Random("tokenizer")
    captions = [training_caption(random_toy(rng), rng).text for _ in range(NUM_TOKENIZER_CAPTIONS)]
    byte_symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    learner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(byte_symbols) + NUM_MERGES,
        initial_alphabet=byte_symbols,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(captions, trainer)

    learned = learner.get_vocab()
    whole_words = {f"{word}</w>" for word in SPLIT_WORDS}
    merges = [merge for merge in _merges(learner) if "".join(merge) not in whole_words]
    symbols = byte_symbols + [f"{symbol}</w>" for symbol in byte_symbols]
    symbols += sorted({"".join(merge) for merge in merges} - set(symbols), key=learned.__getitem__)
    vocab = {symbol: index for index, symbol in enumerate([*symbols, BOS_TOKEN, EOS_TOKEN])}
    # Its annotation of `merges` asks for strings; its own files hold pairs.
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)  # type: ignore[arg-type]


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text encoder of about 0.6 M parameters, hidden size 128."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        projection_dim=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config.toybox = True  # so that what is made with it says so, and is not published by accident
    return CLIPTextModel(config)


def build_vae(scaling_factor: float = 1.0) -> AutoencoderKL:
    """An autoencoder of 0.65 M parameters from ``(batch, 3, 64, 64)`` pictures to ``(batch, 4, 16, 16)`` latents."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=RESOLUTION,
        mid_block_add_attention=False,
        scaling_factor=scaling_factor,
    )


def build_unet(text_encoder: CLIPTextModel) -> UNet2DConditionModel:
    """A denoiser of about 6.6 M parameters on ``(batch, 4, 16, 16)`` latents.

    Attention acts on 8 x 8 only: on 2 CPU cores, attention on 16 x 16 as well doubled the time of a training step.
    """
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(96, 160),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=text_encoder.config.hidden_size,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """The noise schedule of Stable Diffusion 1.5 for latents of 16 x 16 instead of 64 x 64.

    Two changes keep it the same task. Small latents average less noise away over a toy, so they need more of it: twice
    the betas (the reasoning is that of arXiv:2301.11093). And the last step is pure noise (arXiv:2305.08891): the
    signal that Stable Diffusion leaves there is about as strong as the mean of the noise here, and the seed would
    choose the background, whatever the caption asks for. Where no signal is left the noise is no target, so the model
    predicts the velocity.
    """
    return DDIMScheduler(
        beta_start=0.0017,
        beta_end=0.024,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def assemble_pipeline(
    vae: AutoencoderKL, text_encoder: CLIPTextModel, unet: UNet2DConditionModel, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    """Put the parts together as Stable Diffusion, without a safety checker (it draws toys only)."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def build_classifier(labels: Sequence[str]) -> ViTForImageClassification:
    """A vision transformer of about 0.8 M parameters on 64 x 64 pictures in patches of 8."""
    config = ViTConfig(
        image_size=RESOLUTION,
        patch_size=8,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=5,
        num_attention_heads=4,
        **_labels(labels),
    )
    return ViTForImageClassification(config)


def build_judge(labels: Sequence[str]) -> ResNetForImageClassification:
    """A convolutional network of about 1.5 M parameters on 64 x 64 pictures: it shares nothing with what it judges."""
    config = ResNetConfig(
        embedding_size=48,
        hidden_sizes=[48, 96, 144, 192],
        depths=[1, 2, 2, 1],
        layer_type="basic",
        **_labels(labels),
    )
    return ResNetForImageClassification(config)


def _labels(labels: Sequence[str]) -> dict[str, Any]:
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    return [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
