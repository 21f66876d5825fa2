"""Tiny pipelines of videos and of sound with language models that came later."""

from typing import Any

import torch
from diffusers import (
    AceStepPipeline,
    AceStepTransformer1DModel,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLMagvit,
    AutoencoderKLWan,
    AutoencoderOobleck,
    ClassifierFreeGuidance,
    Cosmos2_5_PredictBasePipeline,
    CosmosTransformer3DModel,
    EasyAnimatePipeline,
    EasyAnimateTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    MotifVideoPipeline,
    MotifVideoTransformer3DModel,
    StableAudio3Pipeline,
    UniPCMultistepScheduler,
)
from diffusers.models import AutoencoderSAME, StableAudio3DiTModel
from diffusers.pipelines.ace_step import AceStepConditionEncoder
from diffusers.pipelines.stable_audio_3 import StableAudio3DurationEmbedder
from transformers import Qwen2_5_VLTextModel, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from .families import Family, quiet
from .language_models import (
    qwen2_5_vl_encoder,
    qwen2_vl_config,
    qwen3_encoder,
    t5gemma2_encoder,
    t5gemma_encoder,
)
from .language_tokenizers import gemma_tokenizer, qwen_tokenizer
from .parts import ONE_STEP, denoiser
from .text import byt5_encoder, byt5_tokenizer, seeded

HEADS: dict[str, Any] = {"attention_head_dim": 16, "num_attention_heads": 2}


def _wan_vae() -> AutoencoderKLWan:
    sizes = {"base_dim": 3, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
    return seeded(lambda: AutoencoderKLWan(**sizes, latents_mean=[0.0] * 4, latents_std=[1.0] * 4))


def build_hunyuan_video15() -> HunyuanVideo15Pipeline:
    """HunyuanVideo 1.5: the text half of Qwen2.5-VL behind its chat template, ByT5 for what is in quotes."""
    transformer = denoiser(
        lambda: HunyuanVideo15Transformer3DModel(
            in_channels=9,
            out_channels=4,
            num_layers=1,
            num_refiner_layers=1,
            text_embed_dim=16,
            text_embed_2_dim=20,
            image_embed_dim=8,
            rope_axes_dim=(4, 6, 6),
            target_size=16,
            task_type="t2v",
            **HEADS,
        )
    )
    blocks = {"block_out_channels": (32, 32, 32, 32, 32), "layers_per_block": 1, "latent_channels": 4}
    pipe = HunyuanVideo15Pipeline(
        text_encoder=seeded(lambda: Qwen2_5_VLTextModel(qwen2_vl_config(width=16, layers=3).text_config)),
        tokenizer=qwen_tokenizer(),
        transformer=transformer,
        vae=seeded(lambda: AutoencoderKLHunyuanVideo15(**blocks)),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        text_encoder_2=byt5_encoder(20),
        tokenizer_2=byt5_tokenizer(),
        guider=ClassifierFreeGuidance(),
    )
    pipe.tokenizer_max_length, pipe.vision_num_semantic_tokens = 64, 4  # of 1000 and 729
    return quiet(pipe)


def build_easy_animate() -> EasyAnimatePipeline:
    """EasyAnimate: Qwen2-VL behind its chat template."""
    config = qwen2_vl_config(width=16, config_class=Qwen2VLConfig)
    blocks = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 2}
    transformer = denoiser(
        lambda: EasyAnimateTransformer3DModel(
            in_channels=4,
            out_channels=4,
            patch_size=2,
            num_layers=1,
            mmdit_layers=1,
            time_embed_dim=8,
            add_norm_text_encoder=True,
            text_embed_dim=16,
            **HEADS,
        )
    )
    return quiet(
        EasyAnimatePipeline(
            vae=seeded(lambda: AutoencoderKLMagvit(**blocks)),
            text_encoder=seeded(lambda: Qwen2VLForConditionalGeneration(config)),
            tokenizer=qwen_tokenizer(),
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(),
        )
    )


def build_motif_video() -> MotifVideoPipeline:
    """Motif-Video: the encoder of T5Gemma 2, the prompt as it is."""
    sizes = {"in_channels": 9, "out_channels": 4, "num_layers": 1, "num_single_layers": 1, "text_embed_dim": 16}
    return quiet(
        MotifVideoPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=_wan_vae(),
            text_encoder=t5gemma2_encoder(width=16),
            tokenizer=gemma_tokenizer(),
            transformer=denoiser(lambda: MotifVideoTransformer3DModel(**sizes, **HEADS, rope_axes_dim=(4, 6, 6))),
            guider=ClassifierFreeGuidance(),
        )
    )


class AllowsEverything(torch.nn.Module):
    """In place of the safety checker of Cosmos, which is several models."""

    device, dtype = torch.device("cpu"), torch.float32

    def check_text_safety(self, prompt: str) -> bool:
        """Return whether a prompt may be drawn."""
        return True

    def check_video_safety(self, frames: Any) -> Any:
        """Return the frames that may be seen."""
        return frames


def build_cosmos2_5() -> Cosmos2_5_PredictBasePipeline:
    """Cosmos Predict 2.5: every layer of Qwen2.5-VL behind its chat template, padding and all."""
    text = {"use_crossattn_projection": True, "crossattn_proj_in_channels": 32, "encoder_hidden_states_channels": 16}
    transformer = denoiser(
        lambda: CosmosTransformer3DModel(
            in_channels=5,
            out_channels=4,
            num_layers=1,
            mlp_ratio=2,
            text_embed_dim=16,
            adaln_lora_dim=4,
            max_size=(4, 8, 8),
            concat_padding_mask=False,  # it is resized with torchvision
            extra_pos_embed_type=None,
            **text,
            **HEADS,
        )
    )
    return quiet(
        Cosmos2_5_PredictBasePipeline(
            text_encoder=qwen2_5_vl_encoder(width=16),
            tokenizer=qwen_tokenizer(),
            transformer=transformer,
            vae=_wan_vae(),
            scheduler=UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
            safety_checker=AllowsEverything(),
        )
    )


def build_ace_step() -> AceStepPipeline:
    """ACE-Step: Qwen3 for the prompt, and its embedding alone for the lyrics."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
    sizes |= {"head_dim": 16, "sliding_window": 16}
    transformer = denoiser(
        lambda: AceStepTransformer1DModel(
            num_hidden_layers=2, in_channels=24, audio_acoustic_hidden_dim=8, encoder_hidden_size=32, **sizes
        )
    )
    condition_encoder = denoiser(
        lambda: AceStepConditionEncoder(
            text_hidden_dim=16,
            timbre_hidden_dim=8,
            num_lyric_encoder_hidden_layers=2,
            num_timbre_encoder_hidden_layers=2,
            **sizes,
        )
    )
    with torch.no_grad():  # what its weight norm computes could not be copied with a graph on it
        vae = seeded(
            lambda: AutoencoderOobleck(
                encoder_hidden_size=8,
                downsampling_ratios=[2, 4],
                decoder_channels=8,
                decoder_input_channels=8,
                channel_multiples=[1, 2],
                sampling_rate=64,
            )
        )
    return quiet(
        AceStepPipeline(
            vae=vae,
            text_encoder=qwen3_encoder(width=16),
            tokenizer=qwen_tokenizer(),
            transformer=transformer,
            condition_encoder=condition_encoder,
            scheduler=FlowMatchEulerDiscreteScheduler(),
        )
    )


def build_stable_audio3() -> StableAudio3Pipeline:
    """Stable Audio 3: the encoder of T5Gemma, the prompt as it is."""
    transformer = denoiser(
        lambda: StableAudio3DiTModel(
            io_channels=8,
            embed_dim=32,
            depth=1,
            num_heads=2,
            cond_token_dim=16,
            global_cond_dim=16,
            local_add_cond_dim=9,
            timestep_features_dim=16,
            num_memory_tokens=2,
        )
    )
    with torch.no_grad():  # what its weight norm computes could not be copied with a graph on it
        vae = seeded(
            lambda: AutoencoderSAME(
                patch_size=4,
                encoder_channels=8,
                encoder_c_mults=[2],
                encoder_strides=[4],
                encoder_transformer_depths=[1],
                latent_dim=8,
                dim_heads=8,
                sampling_rate=64,
            )
        )
    return quiet(
        StableAudio3Pipeline(
            vae=vae,
            text_encoder=t5gemma_encoder(width=16),
            tokenizer=gemma_tokenizer(),
            duration_embedder=seeded(lambda: StableAudio3DurationEmbedder(output_dim=16, fourier_dim=8)),
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(),
        )
    )


SMALL = {**ONE_STEP, "height": 16, "width": 16, "num_frames": 1}
FAMILIES = [
    Family("hunyuan_video15", HunyuanVideo15Pipeline, build_hunyuan_video15, {**SMALL, "height": 32, "width": 32}),
    Family("easy_animate", EasyAnimatePipeline, build_easy_animate, {**SMALL, "negative_prompt": "a cat"}),
    Family("motif_video", MotifVideoPipeline, build_motif_video, {**SMALL, "negative_prompt": "a cat"}),
    Family("cosmos2_5", Cosmos2_5_PredictBasePipeline, build_cosmos2_5, {**SMALL, "max_sequence_length": 64}),
    Family("ace_step", AceStepPipeline, build_ace_step, {**ONE_STEP, "audio_duration": 1.0, "lyrics": "a mug"}),
    Family("stable_audio3", StableAudio3Pipeline, build_stable_audio3, {**ONE_STEP, "duration": 1.0}),
]
