"""Tiny pipelines of pictures whose text encoder is one of Qwen's language models (and Flux 2, whose other is not)."""

from typing import Any

from diffusers import (
    AutoencoderKLHunyuanImage,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    HunyuanImagePipeline,
    HunyuanImageTransformer2DModel,
    Kandinsky5T2IPipeline,
    Kandinsky5Transformer3DModel,
    OvisImagePipeline,
    OvisImageTransformer2DModel,
    QwenImageEditPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from PIL import Image
from transformers import Qwen2VLProcessor, Qwen3ForCausalLM

from .families import Family, quiet
from .language_models import mistral3_encoder, qwen2_5_vl_encoder, qwen3_encoder
from .language_tokenizers import mistral_processor, qwen_processor, qwen_tokenizer
from .parts import ONE_STEP, denoiser, flow_vae, flux2_vae, qwen_vae
from .text import byt5_encoder, byt5_tokenizer, clip_text_encoder, clip_tokenizer, seeded


def build_qwen_image() -> QwenImagePipeline:
    """Qwen-Image: Qwen2.5-VL behind a template that is cut off again."""
    return _qwen_image(QwenImagePipeline, vae=qwen_vae())


def build_qwen_image_edit() -> QwenImageEditPipeline:
    """Qwen-Image-Edit: two tokenizers, and it is that of the processor that reads."""
    # It makes a megapixel of every picture, and encodes it: the more levels, the less is left to do for the rest.
    vae = qwen_vae(base=4, levels=6)
    return _qwen_image(QwenImageEditPipeline, vae=vae, processor=qwen_processor(Qwen2VLProcessor))


def _qwen_image(pipeline_class: type, **components: Any) -> Any:
    transformer = denoiser(
        lambda: QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(8, 4, 4),
        )
    )
    return quiet(
        pipeline_class(
            scheduler=FlowMatchEulerDiscreteScheduler(),
            text_encoder=qwen2_5_vl_encoder(width=16),
            tokenizer=qwen_tokenizer(),
            transformer=transformer,
            **components,
        )
    )


def build_z_image() -> ZImagePipeline:
    """Z-Image: Qwen3 behind its chat template."""
    transformer = denoiser(
        lambda: ZImageTransformer2DModel(
            in_channels=16,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[8, 4, 4],
            axes_lens=[256, 64, 64],
        )
    )
    return quiet(
        ZImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=flow_vae(16),
            text_encoder=qwen3_encoder(width=16),
            tokenizer=qwen_tokenizer(),
            transformer=transformer,
        )
    )


def build_flux2_klein() -> Flux2KleinPipeline:
    """Flux 2 Klein: Qwen3 with its output matrix, behind its chat template."""
    return _flux2(Flux2KleinPipeline, 16, qwen3_encoder(width=16, model_class=Qwen3ForCausalLM), qwen_tokenizer())


def build_flux2() -> Flux2Pipeline:
    """Flux 2: Mistral Small 3, and what is called its tokenizer is a processor."""
    return _flux2(Flux2Pipeline, 32, mistral3_encoder(width=16), mistral_processor())


def _flux2(pipeline_class: type, text_width: int, text_encoder: Any, tokenizer: Any) -> Any:
    transformer = denoiser(
        lambda: Flux2Transformer2DModel(
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=text_width,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=pipeline_class is Flux2Pipeline,
        )
    )
    return quiet(
        pipeline_class(
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=flux2_vae(),
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            transformer=transformer,
        )
    )


def build_hunyuan_image() -> HunyuanImagePipeline:
    """HunyuanImage: Qwen2.5-VL behind a template that is cut off again, ByT5 for what the prompt has in quotes."""
    transformer = denoiser(
        lambda: HunyuanImageTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            text_embed_dim=16,
            text_embed_2_dim=20,
            rope_axes_dim=(8, 8),
        )
    )
    sizes = {"in_channels": 3, "out_channels": 3, "latent_channels": 4, "sample_size": 16, "scaling_factor": 0.5}
    blocks = {"block_out_channels": (32, 64), "layers_per_block": 1, "spatial_compression_ratio": 2}
    return quiet(
        HunyuanImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
            vae=seeded(lambda: AutoencoderKLHunyuanImage(**sizes, **blocks)),
            text_encoder=qwen2_5_vl_encoder(width=16, layers=3),
            tokenizer=qwen_tokenizer(),
            text_encoder_2=byt5_encoder(20),
            tokenizer_2=byt5_tokenizer(),
            transformer=transformer,
        )
    )


def build_ovis_image() -> OvisImagePipeline:
    """Ovis-Image: Qwen3 behind a sentence in its chat template that is cut off again."""
    transformer = denoiser(
        lambda: OvisImageTransformer2DModel(
            in_channels=16,
            out_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(4, 4, 8),
        )
    )
    return quiet(
        OvisImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=flow_vae(),
            text_encoder=qwen3_encoder(width=16),
            tokenizer=qwen_tokenizer(),
            transformer=transformer,
        )
    )


def build_kandinsky5() -> Kandinsky5T2IPipeline:
    """Kandinsky 5: Qwen2.5-VL, what is called its tokenizer is a processor; CLIP for the pooled vector."""
    transformer = denoiser(
        lambda: Kandinsky5Transformer3DModel(
            in_visual_dim=4,
            out_visual_dim=4,
            in_text_dim=16,
            in_text_dim2=32,
            time_dim=16,
            model_dim=16,
            ff_dim=32,
            num_text_blocks=1,
            num_visual_blocks=1,
            axes_dims=(4, 2, 2),
        )
    )
    pipe = Kandinsky5T2IPipeline(
        transformer=transformer,
        vae=flow_vae(),
        text_encoder=qwen2_5_vl_encoder(width=16),
        tokenizer=qwen_processor(Qwen2VLProcessor),
        text_encoder_2=clip_text_encoder(),
        tokenizer_2=clip_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    )
    pipe.resolutions = [(16, 16)]  # it makes every picture one of these, and the real ones are of a megapixel
    return quiet(pipe)


FAMILIES = [
    Family("qwen_image", QwenImagePipeline, build_qwen_image, {**ONE_STEP, "height": 16, "width": 16}),
    Family(
        "z_image", ZImagePipeline, build_z_image, {**ONE_STEP, "height": 16, "width": 16, "max_sequence_length": 64}
    ),
    Family(
        "flux2_klein",
        Flux2KleinPipeline,
        build_flux2_klein,
        {**ONE_STEP, "height": 8, "width": 8, "max_sequence_length": 64, "text_encoder_out_layers": (1,)},
    ),
    Family(
        "qwen_image_edit",
        QwenImageEditPipeline,
        build_qwen_image_edit,
        {**ONE_STEP, "height": 128, "width": 128, "image": Image.new("RGB", (16, 16), "red")},
    ),
    Family(
        "flux2",
        Flux2Pipeline,
        build_flux2,
        {**ONE_STEP, "height": 8, "width": 8, "max_sequence_length": 128, "text_encoder_out_layers": (1, 2)},
    ),
    Family("hunyuan_image", HunyuanImagePipeline, build_hunyuan_image, {**ONE_STEP, "height": 16, "width": 16}),
    Family(
        "ovis_image",
        OvisImagePipeline,
        build_ovis_image,
        {**ONE_STEP, "height": 8, "width": 8, "max_sequence_length": 64},
    ),
    Family(
        "kandinsky5",
        Kandinsky5T2IPipeline,
        build_kandinsky5,
        {**ONE_STEP, "height": 16, "width": 16, "max_sequence_length": 32},
    ),
]
