"""What many tiny pipelines are made of."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, AutoencoderKLQwenImage

from .text import seeded

ONE_STEP: Mapping[str, Any] = {"num_inference_steps": 1, "output_type": "np"}


def flow_vae(channels: int = 4) -> AutoencoderKL:
    """Return an autoencoder of pixels that shrinks nothing, as the pipelines that came after Flux configure it."""
    options = {"latent_channels": channels, "use_quant_conv": False, "use_post_quant_conv": False}
    return seeded(
        lambda: AutoencoderKL(
            block_out_channels=(4,),
            norm_num_groups=1,
            shift_factor=0.06,
            scaling_factor=1.5,
            sample_size=32,
            **options,
        )
    )


def flux2_vae() -> AutoencoderKLFlux2:
    """Return an autoencoder of Flux 2, which shrinks nothing; its latents are normalized two by two."""
    blocks = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    sizes = {"block_out_channels": (4,), "layers_per_block": 1, "latent_channels": 1, "norm_num_groups": 1}
    return seeded(lambda: AutoencoderKLFlux2(**blocks, **sizes))


def qwen_vae(base: int = 8, levels: int = 2) -> AutoencoderKLQwenImage:
    """Return an autoencoder of Qwen-Image, which halves pictures `levels` times."""
    sizes = {"base_dim": base, "z_dim": 4, "dim_mult": [1] * (levels + 1), "num_res_blocks": 0}
    statistics = {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
    halving = [False, *[True] * (levels - 1)]
    return seeded(lambda: AutoencoderKLQwenImage(**sizes, **statistics, temperal_downsample=halving))


def denoiser(build: Callable[[], torch.nn.Module]) -> Any:
    """Return a seeded denoiser with large weights, so that its prompt changes more than the last digits."""
    return seeded(build, gain=2)
