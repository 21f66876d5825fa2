"""Tiny pipelines of the other families: still and moving pictures."""

from typing import Any

from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKLCosmos,
    BriaPipeline,
    BriaTransformer2DModel,
    ChromaPipeline,
    ChromaTransformer2DModel,
    CosmosTextToWorldPipeline,
    CosmosTransformer3DModel,
    DDPMScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    IFPipeline,
    LDMTextToImagePipeline,
    MotionAdapter,
)

from .families import Family, image_vae, quiet
from .image_families import SMALL, SMALL_T5, scheduler, stable_diffusion_unet
from .text import (
    bert_tokenizer,
    clip_text_encoder,
    clip_tokenizer,
    ldm_bert,
    seeded,
    t5_encoder,
    t5_tokenizer,
)


def animate_diff() -> AnimateDiffPipeline:
    """Build AnimateDiff: Stable Diffusion with layers over time."""
    adapter = seeded(
        lambda: MotionAdapter(
            block_out_channels=(8, 16),
            motion_layers_per_block=1,
            motion_norm_num_groups=2,
            motion_num_attention_heads=2,
        )
    )
    return quiet(
        AnimateDiffPipeline(
            vae=image_vae(),
            text_encoder=clip_text_encoder(),
            tokenizer=clip_tokenizer(),
            unet=stable_diffusion_unet(32),
            motion_adapter=adapter,
            scheduler=scheduler(),
        )
    )


def chroma() -> ChromaPipeline:
    """Build Chroma: Flux without its CLIP."""
    transformer = seeded(
        lambda: ChromaTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=64,
            axes_dims_rope=(2, 2, 4),
            approximator_num_channels=8,
            approximator_hidden_dim=16,
            approximator_layers=1,
        )
    )
    return quiet(
        ChromaPipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=image_vae(quantized=False),
            text_encoder=t5_encoder(64),
            tokenizer=t5_tokenizer(),
        )
    )


def deep_floyd() -> IFPipeline:
    """Build the first stage of DeepFloyd IF, which draws pixels from T5."""
    unet = stable_diffusion_unet(
        16, in_channels=3, out_channels=6, encoder_hid_dim=64, encoder_hid_dim_type="text_proj"
    )
    return quiet(
        IFPipeline(
            tokenizer=t5_tokenizer(),
            text_encoder=t5_encoder(64),
            unet=unet,
            scheduler=DDPMScheduler(variance_type="learned_range"),
            safety_checker=None,
            feature_extractor=None,
            watermarker=None,
            requires_safety_checker=False,
        )
    )


def bria() -> BriaPipeline:
    """Build Bria 3: Flux's transformer on T5 alone."""
    transformer = seeded(
        lambda: BriaTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=64,
            axes_dims_rope=[2, 2, 4],
        )
    )
    return quiet(
        BriaPipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=image_vae(quantized=False),
            text_encoder=t5_encoder(64),
            tokenizer=t5_tokenizer(),
        )
    )


def latent_diffusion() -> LDMTextToImagePipeline:
    """Build the first latent diffusion; its text encoder is the component `bert`."""
    return quiet(
        LDMTextToImagePipeline(
            vqvae=image_vae(),
            bert=ldm_bert(),
            tokenizer=bert_tokenizer(),
            unet=stable_diffusion_unet(32),
            scheduler=scheduler(),
        )
    )


class NoGuardrail:
    """Stands in for the safety checker of Cosmos, a package of its own; there is nothing to check in noise."""

    def to(self, device: Any) -> "NoGuardrail":
        """Do nothing."""
        return self

    def check_text_safety(self, prompt: str) -> bool:
        """Accept every prompt."""
        return True

    def check_video_safety(self, frames: Any) -> Any:
        """Return the frames."""
        return frames


def cosmos() -> CosmosTextToWorldPipeline:
    """Build Cosmos text to world, which reads T5."""
    vae = seeded(
        lambda: AutoencoderKLCosmos(
            latent_channels=4,
            encoder_block_out_channels=(8, 8, 8, 8),
            decode_block_out_channels=(8, 8, 8, 8),
            attention_resolutions=(8,),
            resolution=64,
            num_layers=1,
            latents_mean=None,
            latents_std=None,
        )
    )
    transformer = seeded(
        lambda: CosmosTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=1,
            text_embed_dim=64,
            adaln_lora_dim=4,
            max_size=(4, 32, 32),
            concat_padding_mask=False,  # the mask needs torchvision
        ),
        gain=2,
    )
    return quiet(
        CosmosTextToWorldPipeline(
            transformer=transformer,
            vae=vae,
            scheduler=EDMEulerScheduler(sigma_max=80, sigma_data=0.5, final_sigmas_type="sigma_min"),
            text_encoder=t5_encoder(64),
            tokenizer=t5_tokenizer(),
            safety_checker=NoGuardrail(),
        )
    )


COSMOS = {
    "num_frames": 9,
    "num_inference_steps": 2,  # a single step goes nowhere
    "negative_prompt": "blurry",  # its own is longer than what it reads here
}

FAMILIES = [
    Family("animate_diff", AnimateDiffPipeline, animate_diff, SMALL | {"num_frames": 2}),
    Family("chroma", ChromaPipeline, chroma, SMALL_T5),
    Family("deep_floyd", IFPipeline, deep_floyd, SMALL | {"clean_caption": False}),
    Family("bria", BriaPipeline, bria, SMALL_T5),
    Family(
        "latent_diffusion",
        LDMTextToImagePipeline,
        latent_diffusion,
        SMALL | {"height": 64, "width": 64, "guidance_scale": 7.5},
    ),
    Family("cosmos", CosmosTextToWorldPipeline, cosmos, SMALL_T5 | COSMOS),
]
