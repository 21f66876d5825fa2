"""Tiny pipelines of the families that make pictures from CLIP, T5 or BERT embeddings."""

from typing import Any

from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from .families import Family, image_vae, quiet
from .text import (
    bert_encoder,
    bert_tokenizer,
    clip_text_encoder,
    clip_tokenizer,
    seeded,
    t5_encoder,
    t5_tokenizer,
    umt5_encoder,
)


def stable_diffusion_unet(width: int, **options: Any) -> UNet2DConditionModel:
    """Return a U-Net of 8x8 latents that reads text of `width`."""
    return seeded(
        lambda: UNet2DConditionModel(
            sample_size=8,
            layers_per_block=1,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=width,
            attention_head_dim=options.pop("attention_head_dim", 4),
            norm_num_groups=2,
            **options,
        )
    )


def scheduler() -> DDIMScheduler:
    """Return the noise schedule of Stable Diffusion; "trailing" makes a single step start from pure noise."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",
    )


def stable_diffusion() -> StableDiffusionPipeline:
    """Build Stable Diffusion 1.5."""
    return quiet(
        StableDiffusionPipeline(
            vae=image_vae(),
            text_encoder=clip_text_encoder(),
            tokenizer=clip_tokenizer(),
            unet=stable_diffusion_unet(32),
            scheduler=scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def stable_diffusion_xl() -> StableDiffusionXLPipeline:
    """Build SDXL: CLIP-L of 32 beside CLIP-G of 48."""
    unet = stable_diffusion_unet(
        32 + 48,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=48 + 6 * 8,
    )
    return quiet(
        StableDiffusionXLPipeline(
            vae=image_vae(),
            text_encoder=clip_text_encoder(),
            text_encoder_2=clip_text_encoder(48, projection=True, seed=1),
            tokenizer=clip_tokenizer(),
            tokenizer_2=clip_tokenizer(pad="!"),
            unet=unet,
            scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        )
    )


def stable_diffusion_3() -> StableDiffusion3Pipeline:
    """Build Stable Diffusion 3: CLIP-L of 32 beside CLIP-G of 48, together 80, padded to the 96 of T5."""
    transformer = seeded(
        lambda: SD3Transformer2DModel(
            sample_size=8,
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_projection_dim=16,
            joint_attention_dim=96,
            pooled_projection_dim=32 + 48,
            pos_embed_max_size=8,
        )
    )
    return quiet(
        StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=image_vae(quantized=False),
            text_encoder=clip_text_encoder(projection=True),
            tokenizer=clip_tokenizer(),
            text_encoder_2=clip_text_encoder(48, projection=True, seed=1),
            tokenizer_2=clip_tokenizer(pad="!"),
            text_encoder_3=t5_encoder(96),
            tokenizer_3=t5_tokenizer(),
        )
    )


def flux() -> FluxPipeline:
    """Build Flux: the pooled CLIP-L of 32, and T5 of 64."""
    transformer = seeded(
        lambda: FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=64,
            pooled_projection_dim=32,
            guidance_embeds=True,
            axes_dims_rope=(2, 2, 4),
        )
    )
    return quiet(
        FluxPipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=image_vae(quantized=False),
            text_encoder=clip_text_encoder(),
            tokenizer=clip_tokenizer(),
            text_encoder_2=t5_encoder(64),
            tokenizer_2=t5_tokenizer(),
        )
    )


def pixart(pipeline_class: type) -> Any:
    """Build PixArt-alpha or PixArt-sigma."""
    transformer = seeded(
        lambda: PixArtTransformer2DModel(
            sample_size=8,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            in_channels=4,
            out_channels=8,
            cross_attention_dim=16,
            caption_channels=64,
        )
    )
    return quiet(
        pipeline_class(
            transformer=transformer,
            scheduler=scheduler(),
            vae=image_vae(),
            text_encoder=t5_encoder(64),
            tokenizer=t5_tokenizer(),
        )
    )


def hunyuan_dit() -> HunyuanDiTPipeline:
    """Build HunyuanDiT: BERT of 32 beside T5 of 64."""
    transformer = seeded(
        lambda: HunyuanDiT2DModel(
            sample_size=8,
            num_layers=2,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=2,
            in_channels=4,
            hidden_size=16,
            cross_attention_dim=32,
            cross_attention_dim_t5=64,
            pooled_projection_dim=16,
        ),
        gain=2,
    )
    return quiet(
        HunyuanDiTPipeline(
            transformer=transformer,
            scheduler=scheduler(),
            vae=image_vae(),
            text_encoder=bert_encoder(),
            tokenizer=bert_tokenizer(),
            text_encoder_2=t5_encoder(64),
            tokenizer_2=t5_tokenizer(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def aura_flow() -> AuraFlowPipeline:
    """Build AuraFlow, which reads UMT5."""
    transformer = seeded(
        lambda: AuraFlowTransformer2DModel(
            sample_size=8,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=64,
            caption_projection_dim=16,
            pos_embed_max_size=64,
        ),
        gain=3,
    )
    return quiet(
        AuraFlowPipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=image_vae(quantized=False),
            text_encoder=umt5_encoder(64),
            tokenizer=t5_tokenizer(),
        )
    )


SMALL = {"num_inference_steps": 1, "height": 16, "width": 16, "output_type": "np"}
SMALL_T5 = SMALL | {"max_sequence_length": 64}
PIXART = SMALL_T5 | {"clean_caption": False, "use_resolution_binning": False}

FAMILIES = [
    Family("stable_diffusion", StableDiffusionPipeline, stable_diffusion, SMALL),
    Family("stable_diffusion_xl", StableDiffusionXLPipeline, stable_diffusion_xl, SMALL),
    Family("stable_diffusion_3", StableDiffusion3Pipeline, stable_diffusion_3, SMALL_T5),
    Family("flux", FluxPipeline, flux, SMALL_T5),
    Family("pixart_alpha", PixArtAlphaPipeline, lambda: pixart(PixArtAlphaPipeline), PIXART),
    Family("pixart_sigma", PixArtSigmaPipeline, lambda: pixart(PixArtSigmaPipeline), PIXART),
    Family("hunyuan_dit", HunyuanDiTPipeline, hunyuan_dit, SMALL | {"use_resolution_binning": False}),
    Family("aura_flow", AuraFlowPipeline, aura_flow, SMALL_T5),
]
