"""Tiny pipelines of pictures whose text encoder is one of Google's Gemmas."""

import torch
from diffusers import (
    AutoencoderDC,
    FlowMatchEulerDiscreteScheduler,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    LuminaNextDiT2DModel,
    LuminaPipeline,
    PRXPipeline,
    PRXTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
)

from .families import Family, quiet
from .language_models import gemma2_encoder, gemma_encoder, t5gemma_encoder
from .language_tokenizers import gemma_tokenizer
from .parts import ONE_STEP, denoiser, flow_vae
from .text import seeded


def build_sana() -> SanaPipeline:
    """Sana: Gemma 2, lower case, an instruction in front."""
    transformer = denoiser(
        lambda: SanaTransformer2DModel(
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=4,
            num_cross_attention_heads=2,
            cross_attention_head_dim=4,
            cross_attention_dim=8,
            caption_channels=16,
            sample_size=32,
        )
    )
    blocks = ("ResBlock", "EfficientViTBlock")
    sides = {
        "block_types": blocks,
        "block_out_channels": (8, 8),
        "qkv_multiscales": ((), (5,)),
        "layers_per_block": (1, 1),
    }
    vae = seeded(
        lambda: AutoencoderDC(
            latent_channels=4,
            attention_head_dim=2,
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            **{f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in sides.items()},
        )
    )
    return quiet(
        SanaPipeline(
            tokenizer=gemma_tokenizer(),
            text_encoder=gemma2_encoder(width=16),
            vae=vae,
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        )
    )


def build_lumina2() -> Lumina2Pipeline:
    """Lumina 2: Gemma 2 behind a system prompt."""
    transformer = denoiser(
        lambda: Lumina2Transformer2DModel(
            sample_size=4,
            in_channels=4,
            hidden_size=24,
            num_layers=1,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=2,
            axes_dim_rope=(4, 4, 4),
            axes_lens=(128, 16, 16),
            cap_feat_dim=16,
        )
    )
    return quiet(
        Lumina2Pipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=flow_vae(),
            text_encoder=gemma2_encoder(width=16),
            tokenizer=gemma_tokenizer(),
        )
    )


def build_lumina() -> LuminaPipeline:
    """Lumina (the first): Gemma, and a prompt that is cleaned before."""
    sizes = {"sample_size": 4, "in_channels": 4, "hidden_size": 16, "num_layers": 1, "cross_attention_dim": 16}
    heads = {"num_attention_heads": 2, "num_kv_heads": 1, "multiple_of": 4}

    def build() -> LuminaNextDiT2DModel:
        model = LuminaNextDiT2DModel(**sizes, **heads)
        torch.nn.init.ones_(model.pad_token)  # nothing reads it, and it is whatever was in memory
        return model

    return quiet(
        LuminaPipeline(
            transformer=denoiser(build),
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=flow_vae(),
            text_encoder=gemma_encoder(width=16),
            tokenizer=gemma_tokenizer(),
        )
    )


def build_prx() -> PRXPipeline:
    """PRX: the encoder of T5Gemma, and a prompt that is cleaned before."""
    transformer = denoiser(
        lambda: PRXTransformer2DModel(
            in_channels=4, patch_size=1, context_in_dim=16, hidden_size=8, num_heads=2, depth=1, axes_dim=[2, 2]
        )
    )
    return quiet(
        PRXPipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            text_encoder=t5gemma_encoder(width=16),
            tokenizer=gemma_tokenizer(),
            vae=flow_vae(),
        )
    )


FAMILIES = [
    Family("sana", SanaPipeline, build_sana, {**ONE_STEP, "height": 32, "width": 32, "use_resolution_binning": False}),
    Family("lumina2", Lumina2Pipeline, build_lumina2, {**ONE_STEP, "height": 32, "width": 32}),
    Family("lumina", LuminaPipeline, build_lumina, {**ONE_STEP, "height": 32, "width": 32, "clean_caption": False}),
    Family(
        "prx",
        PRXPipeline,
        build_prx,
        {**ONE_STEP, "height": 8, "width": 8, "use_resolution_binning": False, "tokenizer_max_length": 32},
    ),
]
