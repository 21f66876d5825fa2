"""Tiny pipelines of the families that make videos from T5 or UMT5."""

from diffusers import (
    AllegroPipeline,
    AllegroTransformer3DModel,
    AutoencoderKLAllegro,
    AutoencoderKLCogVideoX,
    AutoencoderKLLTXVideo,
    AutoencoderKLMochi,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    LattePipeline,
    LatteTransformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    MochiPipeline,
    MochiTransformer3DModel,
    WanPipeline,
    WanTransformer3DModel,
)

from .families import Family, image_vae, quiet
from .image_families import SMALL, SMALL_T5, scheduler
from .text import (
    seeded,
    t5_encoder,
    t5_tokenizer,
    umt5_encoder,
)


def wan() -> WanPipeline:
    """Build Wan 2.1, which reads UMT5."""
    vae = seeded(
        lambda: AutoencoderKLWan(
            base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4
        )
    )
    transformer = seeded(
        lambda: WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=64,
            freq_dim=16,
            ffn_dim=32,
            num_layers=1,
            rope_max_seq_len=32,
        ),
        gain=2,
    )
    return quiet(
        WanPipeline(
            transformer=transformer,
            vae=vae,
            scheduler=FlowMatchEulerDiscreteScheduler(),
            text_encoder=umt5_encoder(64),
            tokenizer=t5_tokenizer(),
        )
    )


def ltx() -> LTXPipeline:
    """Build LTX-Video, which reads T5."""
    widths = (8, 8, 8, 8)
    vae = seeded(
        lambda: AutoencoderKLLTXVideo(
            latent_channels=8,
            block_out_channels=widths,
            decoder_block_out_channels=widths,
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
        )
    )
    transformer = seeded(
        lambda: LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=8,
            cross_attention_dim=16,
            num_layers=1,
            caption_channels=64,
        ),
        gain=2,
    )
    return quiet(
        LTXPipeline(
            transformer=transformer,
            vae=vae,
            scheduler=FlowMatchEulerDiscreteScheduler(),
            text_encoder=t5_encoder(64),
            tokenizer=t5_tokenizer(),
        )
    )


def cog_video_x() -> CogVideoXPipeline:
    """Build CogVideoX, whose transformer has a fixed number of text tokens."""
    vae = seeded(
        lambda: AutoencoderKLCogVideoX(
            block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2
        )
    )
    transformer = seeded(
        lambda: CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=4,
            time_embed_dim=8,
            text_embed_dim=64,
            num_layers=1,
            sample_width=2,
            sample_height=2,
            sample_frames=5,
            max_text_seq_length=64,
        ),
        gain=2,
    )
    return quiet(
        CogVideoXPipeline(
            tokenizer=t5_tokenizer(),
            text_encoder=t5_encoder(64),
            vae=vae,
            transformer=transformer,
            scheduler=CogVideoXDDIMScheduler(
                prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
            ),
        )
    )


def mochi() -> MochiPipeline:
    """Build Mochi; its pipeline insists on 12 latent channels."""
    widths = (32, 32, 32, 32)  # its normalisation has 32 groups
    vae = seeded(
        lambda: AutoencoderKLMochi(
            encoder_block_out_channels=widths, decoder_block_out_channels=widths, layers_per_block=(1, 1, 1, 1, 1)
        )
    )
    transformer = seeded(
        lambda: MochiTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=2,
            pooled_projection_dim=16,
            text_embed_dim=64,
            time_embed_dim=4,
        ),
        gain=2,
    )
    return quiet(
        MochiPipeline(
            transformer=transformer,
            vae=vae,
            scheduler=FlowMatchEulerDiscreteScheduler(),
            text_encoder=t5_encoder(64),
            tokenizer=t5_tokenizer(),
        )
    )


def latte() -> LattePipeline:
    """Build Latte: PixArt with layers over time."""
    transformer = seeded(
        lambda: LatteTransformer3DModel(
            sample_size=8,
            patch_size=2,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_channels=64,
            in_channels=4,
            out_channels=8,
            cross_attention_dim=16,
            attention_bias=True,
            activation_fn="gelu-approximate",
            num_embeds_ada_norm=1000,
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
            norm_eps=1e-6,
            video_length=2,
        )
    )
    return quiet(
        LattePipeline(
            tokenizer=t5_tokenizer(),
            text_encoder=t5_encoder(64),
            vae=image_vae(),
            transformer=transformer,
            scheduler=scheduler(),
        )
    )


def allegro() -> AllegroPipeline:
    """Build Allegro; its autoencoder decodes in tiles only."""
    vae = seeded(
        lambda: AutoencoderKLAllegro(
            block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2, sample_size=16
        )
    )
    vae.enable_tiling()
    vae.kernel = vae.stride = (8, 16, 16)  # not in its config: one tile would be 24 frames of 200 pixels
    transformer = seeded(
        lambda: AllegroTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=1,
            cross_attention_dim=24,
            sample_width=8,
            sample_height=8,
            sample_frames=8,
            caption_channels=64,
        )
    )
    return quiet(
        AllegroPipeline(
            tokenizer=t5_tokenizer(),
            text_encoder=t5_encoder(64),
            vae=vae,
            transformer=transformer,
            scheduler=scheduler(),
        )
    )


VIDEO = SMALL_T5 | {"num_frames": 5}

FAMILIES = [
    Family("wan", WanPipeline, wan, VIDEO),
    Family("ltx", LTXPipeline, ltx, VIDEO | {"height": 32, "width": 32, "num_frames": 9}),
    Family("cog_video_x", CogVideoXPipeline, cog_video_x, VIDEO),
    Family("mochi", MochiPipeline, mochi, VIDEO | {"num_frames": 7, "num_inference_steps": 2}),
    Family("latte", LattePipeline, latte, SMALL | {"video_length": 2, "clean_caption": False}),
    Family("allegro", AllegroPipeline, allegro, VIDEO | {"num_frames": 8, "clean_caption": False}),
]
