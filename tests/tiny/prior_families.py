"""Tiny pipelines of the families that go from text to an image embedding, and from that to a picture."""

from typing import Any

import torch
from diffusers import (
    DDPMScheduler,
    DDPMWuerstchenScheduler,
    HeunDiscreteScheduler,
    Kandinsky3Pipeline,
    Kandinsky3UNet,
    KandinskyPipeline,
    KandinskyPriorPipeline,
    KandinskyV22PriorPipeline,
    PriorTransformer,
    ShapEPipeline,
    StableCascadeCombinedPipeline,
    StableCascadeDecoderPipeline,
    StableCascadePriorPipeline,
    StableCascadeUNet,
    StableUnCLIPPipeline,
    UnCLIPScheduler,
    VQModel,
)
from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel
from diffusers.pipelines.shap_e.renderer import ShapERenderer
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from .families import Family, image_vae, quiet
from .image_families import SMALL, scheduler, stable_diffusion_unet
from .text import (
    clip_text_encoder,
    clip_tokenizer,
    multilingual_clip,
    seeded,
    t5_encoder,
    t5_tokenizer,
    xlm_roberta_tokenizer,
)


def _cascade_unet(gain: float, **options: Any) -> StableCascadeUNet:
    return seeded(
        lambda: StableCascadeUNet(
            conditioning_dim=16,
            block_out_channels=(8, 8),
            num_attention_heads=(2, 2),
            down_num_layers_per_block=(1, 1),
            up_num_layers_per_block=(1, 1),
            clip_text_pooled_in_channels=40,
            dropout=(0.0, 0.0),
            timestep_ratio_embedding_dim=8,
            **options,
        ),
        gain=gain,
    )


def _cascade_prior_unet() -> StableCascadeUNet:
    return _cascade_unet(
        gain=1, in_channels=4, out_channels=4, clip_text_in_channels=40, clip_image_in_channels=24, clip_seq=2
    )


def _cascade_decoder() -> dict[str, Any]:
    # A single step of this schedule multiplies by a hundred; the small `scale_factor` brings it back to pixels.
    decoder = _cascade_unet(gain=4, in_channels=4, out_channels=4, effnet_in_channels=4, patch_size=1, clip_seq=2)
    vqgan = seeded(
        lambda: PaellaVQModel(
            bottleneck_blocks=1, embed_dim=8, latent_channels=4, levels=2, num_vq_embeddings=16, scale_factor=0.005
        )
    )
    return {
        "decoder": decoder,
        "vqgan": vqgan,
        "scheduler": DDPMWuerstchenScheduler(),
        "text_encoder": clip_text_encoder(40, projection=True),
        "tokenizer": clip_tokenizer(),
    }


def cascade_prior() -> StableCascadePriorPipeline:
    """Build Stable Cascade's stage C."""
    return quiet(
        StableCascadePriorPipeline(
            prior=_cascade_prior_unet(),
            scheduler=DDPMWuerstchenScheduler(),
            text_encoder=clip_text_encoder(40, projection=True),
            tokenizer=clip_tokenizer(),
        )
    )


def cascade_decoder() -> StableCascadeDecoderPipeline:
    """Build Stable Cascade's stages B and A."""
    return quiet(StableCascadeDecoderPipeline(**_cascade_decoder()))


def cascade() -> StableCascadeCombinedPipeline:
    """Build the whole of Stable Cascade; its two text encoders are separate objects with equal weights."""
    return quiet(
        StableCascadeCombinedPipeline(
            **_cascade_decoder(),
            prior_prior=_cascade_prior_unet(),
            prior_scheduler=DDPMWuerstchenScheduler(),
            prior_text_encoder=clip_text_encoder(40, projection=True),
            prior_tokenizer=clip_tokenizer(),
        )
    )


def _movq() -> VQModel:
    return seeded(
        lambda: VQModel(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
            up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
            latent_channels=4,
            num_vq_embeddings=12,
            norm_num_groups=2,
            vq_embed_dim=4,
        )
    )


def kandinsky() -> KandinskyPipeline:
    """Build Kandinsky 2.1's decoder, which reads a multilingual CLIP of 32 and image embeddings of 24."""
    unet = stable_diffusion_unet(
        24,
        out_channels=8,
        addition_embed_type="text_image",
        addition_embed_type_num_heads=2,
        encoder_hid_dim=32,
        encoder_hid_dim_type="text_image_proj",
    )
    return quiet(
        KandinskyPipeline(
            text_encoder=multilingual_clip(32, 24),
            tokenizer=xlm_roberta_tokenizer(),
            unet=unet,
            scheduler=scheduler(),
            movq=_movq(),
        )
    )


def _prior_transformer(width: int, **options: Any) -> PriorTransformer:
    return seeded(
        lambda: PriorTransformer(
            num_attention_heads=2, attention_head_dim=8, num_layers=1, embedding_dim=width, **options
        )
    )


def _unclip_scheduler() -> UnCLIPScheduler:
    return UnCLIPScheduler(prediction_type="sample", variance_type="fixed_small_log", clip_sample_range=5.0)


def kandinsky_prior(pipeline_class: type) -> Any:
    """Build the prior of Kandinsky 2.1 or 2.2: from text to an image embedding of the same width."""
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        projection_dim=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    return quiet(
        pipeline_class(
            prior=_prior_transformer(32),
            image_encoder=seeded(lambda: CLIPVisionModelWithProjection(vision)),
            text_encoder=clip_text_encoder(32, projection=True),
            tokenizer=clip_tokenizer(),
            scheduler=_unclip_scheduler(),
            image_processor=CLIPImageProcessorPil(crop_size=16, size=16),
        )
    )


def kandinsky_3() -> Kandinsky3Pipeline:
    """Build Kandinsky 3, which reads T5."""
    unet = seeded(
        lambda: Kandinsky3UNet(
            time_embedding_dim=8,
            groups=2,
            attention_head_dim=4,
            layers_per_block=3,
            block_out_channels=(8, 16),
            cross_attention_dim=8,
            encoder_hid_dim=64,
        )
    )
    return quiet(
        Kandinsky3Pipeline(
            tokenizer=t5_tokenizer(), text_encoder=t5_encoder(64), unet=unet, scheduler=scheduler(), movq=_movq()
        )
    )


def shap_e() -> ShapEPipeline:
    """Build Shap-E, from the pooled CLIP to the latents of a shape."""
    prior = _prior_transformer(
        8,
        num_embeddings=4,
        embedding_proj_dim=32,
        time_embed_dim=16,
        clip_embed_dim=16,
        additional_embeddings=0,
        time_embed_act_fn="gelu",
        norm_in_type="layer",
        encoder_hid_proj_type=None,
        added_emb_type=None,
    )
    shapes = ((8, 93), (8, 8), (8, 8), (8, 8))
    renderer = seeded(lambda: ShapERenderer(param_shapes=shapes, d_latent=8, d_hidden=8, n_output=12))
    return quiet(
        ShapEPipeline(
            prior=prior,
            text_encoder=clip_text_encoder(32, projection=True),
            tokenizer=clip_tokenizer(),
            scheduler=HeunDiscreteScheduler(beta_schedule="exp", prediction_type="sample", use_karras_sigmas=True),
            shap_e_renderer=renderer,
        )
    )


def stable_unclip() -> StableUnCLIPPipeline:
    """Build Stable unCLIP: a prior that reads CLIP of 24, then Stable Diffusion with CLIP of 32."""
    unet = stable_diffusion_unet(32, class_embed_type="projection", projection_class_embeddings_input_dim=2 * 24)
    return quiet(
        StableUnCLIPPipeline(
            prior_tokenizer=clip_tokenizer(),
            prior_text_encoder=clip_text_encoder(24, projection=True, seed=1),
            prior=_prior_transformer(24),
            prior_scheduler=_unclip_scheduler(),
            image_normalizer=seeded(lambda: StableUnCLIPImageNormalizer(24)),
            image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
            tokenizer=clip_tokenizer(),
            text_encoder=clip_text_encoder(32),
            unet=unet,
            scheduler=scheduler(),
            vae=image_vae(),
        )
    )


TWO_STEPS = {"num_inference_steps": 2}  # the unCLIP schedule divides by the number of steps less one
PRIOR = TWO_STEPS | {"output_type": "np"}
IMAGE_EMBEDS = {"image_embeds": torch.full((1, 24), 0.1), "negative_image_embeds": torch.zeros(1, 24)}
CASCADE = SMALL | {"height": 128, "width": 128}

FAMILIES = [
    Family("cascade_prior", StableCascadePriorPipeline, cascade_prior, CASCADE),
    Family(
        "cascade_decoder",
        StableCascadeDecoderPipeline,
        cascade_decoder,
        {"image_embeddings": torch.full((1, 4, 3, 3), 0.1), "num_inference_steps": 1, "output_type": "np"},
    ),
    Family(
        "cascade",
        StableCascadeCombinedPipeline,
        cascade,
        CASCADE | {"prior_num_inference_steps": 1},
        idle_encoders=frozenset({"text_encoder"}),  # the decoder gets the embeddings of the prior
    ),
    Family("kandinsky", KandinskyPipeline, kandinsky, SMALL | IMAGE_EMBEDS),
    Family("kandinsky_prior", KandinskyPriorPipeline, lambda: kandinsky_prior(KandinskyPriorPipeline), PRIOR),
    Family("kandinsky_22_prior", KandinskyV22PriorPipeline, lambda: kandinsky_prior(KandinskyV22PriorPipeline), PRIOR),
    Family("kandinsky_3", Kandinsky3Pipeline, kandinsky_3, SMALL),
    Family("shap_e", ShapEPipeline, shap_e, TWO_STEPS | {"output_type": "latent"}),
    Family("stable_unclip", StableUnCLIPPipeline, stable_unclip, SMALL | {"prior_num_inference_steps": 2}),
]
