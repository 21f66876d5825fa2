"""Tiny pipelines of videos whose text encoder is a language model."""

from typing import Any

from diffusers import (
    AutoencoderKLHunyuanVideo,
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
    SanaVideoPipeline,
    SanaVideoTransformer3DModel,
)
from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder

from .families import Family, quiet
from .language_models import gemma2_encoder, gemma3_encoder, llama_encoder
from .language_tokenizers import gemma_tokenizer, llama_tokenizer
from .parts import ONE_STEP, denoiser
from .text import clip_text_encoder, clip_tokenizer, seeded

LTX2_SOUND: dict[str, Any] = {
    "base_channels": 4,
    "ch_mult": (1,),
    "num_res_blocks": 1,
    "resolution": 32,
    "latent_channels": 2,
    "mel_bins": 8,
}


def build_hunyuan_video() -> HunyuanVideoPipeline:
    """HunyuanVideo: Llama behind a template that is cut off again, CLIP for the pooled vector."""
    transformer = denoiser(
        lambda: HunyuanVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            text_embed_dim=16,
            pooled_projection_dim=32,
            rope_axes_dim=(2, 2, 4),
        )
    )
    return quiet(
        HunyuanVideoPipeline(
            text_encoder=llama_encoder(width=16),
            tokenizer=llama_tokenizer(),
            transformer=transformer,
            vae=_hunyuan_vae(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
            text_encoder_2=clip_text_encoder(),
            tokenizer_2=clip_tokenizer(),
        )
    )


def build_sana_video() -> SanaVideoPipeline:
    """Sana-Video: Gemma 2, lower case, an instruction in front."""
    transformer = denoiser(
        lambda: SanaVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=1,
            num_cross_attention_heads=2,
            cross_attention_head_dim=12,
            cross_attention_dim=24,
            caption_channels=16,
            sample_size=4,
            rope_max_seq_len=32,
        )
    )
    sizes = {"base_dim": 3, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
    statistics = {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
    vae = seeded(lambda: AutoencoderKLWan(**sizes, **statistics, temperal_downsample=[False, True, True]))
    return quiet(
        SanaVideoPipeline(
            tokenizer=gemma_tokenizer(),
            text_encoder=gemma2_encoder(width=16),
            vae=vae,
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        )
    )


def build_ltx2() -> LTX2Pipeline:
    """LTX-2: every layer of Gemma 3, through a connector for the video and one for the sound."""
    transformer = denoiser(
        lambda: LTX2VideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            cross_attention_dim=16,
            audio_in_channels=4,
            audio_out_channels=4,
            audio_num_attention_heads=2,
            audio_attention_head_dim=4,
            audio_cross_attention_dim=8,
            num_layers=1,
            caption_channels=16,
            rope_double_precision=False,
            rope_type="split",
        )
    )
    heads: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1}
    heads |= {"num_learnable_registers": None}
    connectors = seeded(
        lambda: LTX2TextConnectors(
            caption_channels=16,
            text_proj_in_factor=3,
            connector_rope_base_seq_len=32,
            rope_double_precision=False,
            rope_type="split",
            **{f"{kind}_connector_{key}": value for kind in ("video", "audio") for key, value in heads.items()},
        )
    )
    return quiet(
        LTX2Pipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=_ltx2_vae(),
            audio_vae=seeded(lambda: AutoencoderKLLTX2Audio(**LTX2_SOUND)),
            text_encoder=gemma3_encoder(width=16),
            tokenizer=gemma_tokenizer(),
            connectors=connectors,
            transformer=transformer,
            vocoder=seeded(
                lambda: LTX2Vocoder(
                    in_channels=2 * LTX2_SOUND["mel_bins"],
                    hidden_channels=16,
                    upsample_kernel_sizes=[4, 4],
                    upsample_factors=[2, 2],
                    resnet_kernel_sizes=[3],
                    resnet_dilations=[[1]],
                )
            ),
        )
    )


def _ltx2_vae() -> Any:
    sizes: dict[str, Any] = {"latent_channels": 4, "block_out_channels": (8,), "decoder_block_out_channels": (8,)}
    layers = {"layers_per_block": (1,), "decoder_layers_per_block": (1, 1), "decoder_inject_noise": (False, False)}
    scaling = {"spatio_temporal_scaling": (True,), "decoder_spatio_temporal_scaling": (True,), "patch_size": 1}
    sampling = {"downsample_type": ("spatial",), "upsample_residual": (False,), "upsample_factor": (1,)}
    sampling |= {"down_block_types": ("LTX2VideoDownBlock3D",), "upsample_type": ("spatiotemporal",)}
    return seeded(lambda: AutoencoderKLLTX2Video(**sizes, **layers, **scaling, **sampling, decoder_causal=False))


def _hunyuan_vae() -> Any:
    blocks: dict[str, Any] = {
        f"{way.lower()}_block_types": (f"HunyuanVideo{way}Block3D",) * 4 for way in ("Down", "Up")
    }
    sizes = {"block_out_channels": (4, 4, 4, 4), "layers_per_block": 1, "norm_num_groups": 2, "latent_channels": 4}
    return seeded(lambda: AutoencoderKLHunyuanVideo(**blocks, **sizes))


FAMILIES = [
    Family(
        "hunyuan_video",
        HunyuanVideoPipeline,
        build_hunyuan_video,
        {**ONE_STEP, "height": 16, "width": 16, "num_frames": 1, "max_sequence_length": 32},
    ),
    Family(
        "sana_video",
        SanaVideoPipeline,
        build_sana_video,
        {**ONE_STEP, "height": 32, "width": 32, "frames": 1, "use_resolution_binning": False},
    ),
    Family(
        "ltx2",
        LTX2Pipeline,
        build_ltx2,
        {**ONE_STEP, "height": 32, "width": 32, "num_frames": 5, "frame_rate": 25.0, "max_sequence_length": 32}
        | {"spatio_temporal_guidance_blocks": [0]},
    ),
]
