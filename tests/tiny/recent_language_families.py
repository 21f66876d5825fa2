"""Tiny pipelines of pictures with Qwen3-VL and with language models that only one family reads."""

from typing import Any

from diffusers import (
    AutoencoderKLQwenImage21,
    AutoencoderKLWan,
    AutoencoderTiny,
    BriaFibo2Pipeline,
    BriaFibo2Transformer2DModel,
    BriaFiboPipeline,
    DreamLitePipeline,
    DreamLiteUNetModel,
    ErnieImagePipeline,
    ErnieImageTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    Krea2Pipeline,
    Krea2Transformer2DModel,
    LongCatImagePipeline,
    LongCatImageTransformer2DModel,
    NucleusMoEImagePipeline,
    NucleusMoEImageTransformer2DModel,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
)
from diffusers.models import BriaFiboTransformer2DModel
from transformers import Mistral3Model, Qwen2VLProcessor, Qwen3VLModel, Qwen3VLProcessor

from .families import Family, quiet
from .language_models import mistral3_encoder, qwen2_5_vl_encoder, qwen3_vl_encoder, smollm3_encoder
from .language_tokenizers import mistral_tokenizer, qwen_processor, qwen_tokenizer, smollm3_tokenizer
from .parts import ONE_STEP, denoiser, flow_vae, flux2_vae, qwen_vae
from .text import seeded

HEADS: dict[str, Any] = {"attention_head_dim": 16, "num_attention_heads": 2}


def build_longcat_image() -> LongCatImagePipeline:
    """LongCat-Image: Qwen2.5-VL; what is in quotes is read letter by letter; a processor that only rewrites."""
    sizes = {"in_channels": 64, "num_layers": 1, "num_single_layers": 1, "joint_attention_dim": 16}
    return quiet(
        LongCatImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=flow_vae(16),
            text_encoder=qwen2_5_vl_encoder(width=16),
            tokenizer=qwen_tokenizer(),
            text_processor=qwen_processor(Qwen2VLProcessor),
            transformer=denoiser(
                lambda: LongCatImageTransformer2DModel(
                    **sizes, **HEADS, pooled_projection_dim=16, axes_dims_rope=[4, 6, 6]
                )
            ),
        )
    )


def build_krea2() -> Krea2Pipeline:
    """Krea 2: some layers of Qwen3-VL, padding inside the template."""
    text = {"text_hidden_dim": 16, "num_text_layers": 2, "text_num_attention_heads": 2, "text_intermediate_size": 32}
    blocks = {"text_num_key_value_heads": 1, "num_layerwise_text_blocks": 1, "num_refiner_text_blocks": 1}
    transformer = denoiser(
        lambda: Krea2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_key_value_heads=1,
            intermediate_size=32,
            timestep_embed_dim=16,
            axes_dims_rope=(4, 6, 6),
            **text,
            **blocks,
            **HEADS,
        )
    )
    return quiet(
        Krea2Pipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=qwen_vae(),
            text_encoder=qwen3_vl_encoder(width=16, model_class=Qwen3VLModel),
            tokenizer=qwen_tokenizer(),
            transformer=transformer,
            text_encoder_select_layers=(1, 2),
        )
    )


def build_dreamlite() -> DreamLitePipeline:
    """DreamLite: Qwen3-VL and a U-Net; the tokenizer reads for new pictures, the processor for edited ones."""
    unet = seeded(
        lambda: DreamLiteUNetModel(
            sample_size=8,
            block_out_channels=(8, 8, 16),
            layers_per_block=1,
            norm_num_groups=2,
            cross_attention_dim=16,
            attention_head_dim=4,
            num_kv_heads=1,
            addition_embed_type="time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=16,
        )
    )
    vae = seeded(
        lambda: AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        )
    )
    return quiet(
        DreamLitePipeline(
            text_encoder=qwen3_vl_encoder(width=16),
            tokenizer=qwen_tokenizer(),
            processor=qwen_processor(Qwen3VLProcessor),
            vae=vae,
            unet=unet,
            scheduler=FlowMatchEulerDiscreteScheduler(),
        )
    )


def build_nucleus_moe() -> NucleusMoEImagePipeline:
    """Nucleus-MoE: Qwen3-VL behind its chat template; there is no tokenizer but in the processor."""
    sizes = {"in_channels": 16, "out_channels": 4, "num_layers": 1, "joint_attention_dim": 16}
    return quiet(
        NucleusMoEImagePipeline(
            transformer=denoiser(
                lambda: NucleusMoEImageTransformer2DModel(
                    **sizes, **HEADS, num_key_value_heads=1, axes_dims_rope=(4, 6, 6), moe_enabled=False
                )
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=qwen_vae(),
            text_encoder=qwen3_vl_encoder(width=16, layers=3),
            processor=qwen_processor(Qwen3VLProcessor),
        )
    )


def build_qwen_image21() -> QwenImage21Pipeline:
    """Qwen-Image 2.1: Qwen3-VL behind a template; there is no tokenizer but in the processor."""
    sizes = {"in_channels": 4, "out_channels": 4, "num_layers": 1, "context_in_dim": 16, "axes_dims_rope": (4, 6, 6)}
    vae_sizes = {"base_dim": 4, "decoder_base_dim": 4, "z_dim": 4, "dim_mult": [1, 1, 1, 1, 1], "num_res_blocks": 1}
    return quiet(
        QwenImage21Pipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=seeded(lambda: AutoencoderKLQwenImage21(**vae_sizes, latents_mean=[0.0] * 4, latents_std=[1.0] * 4)),
            text_encoder=qwen3_vl_encoder(width=16),
            processor=qwen_processor(Qwen3VLProcessor),
            transformer=denoiser(lambda: QwenImage21Transformer2DModel(**sizes, **HEADS)),
        )
    )


def build_bria_fibo() -> BriaFiboPipeline:
    """Bria Fibo: every layer of SmolLM3, and the id 128000 where a prompt is empty."""
    sizes = {"in_channels": 4, "num_layers": 1, "num_single_layers": 1, "joint_attention_dim": 32}
    vae_sizes = {"base_dim": 3, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
    return quiet(
        BriaFiboPipeline(
            transformer=denoiser(
                lambda: BriaFiboTransformer2DModel(**sizes, **HEADS, axes_dims_rope=[4, 6, 6], text_encoder_dim=16)
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=seeded(lambda: AutoencoderKLWan(**vae_sizes, latents_mean=[0.0] * 4, latents_std=[1.0] * 4)),
            text_encoder=smollm3_encoder(width=16),
            tokenizer=smollm3_tokenizer(),
        )
    )


def build_bria_fibo2() -> BriaFibo2Pipeline:
    """Bria Fibo 2: bundles of layers of Qwen3-VL; a prompt that is JSON is written anew."""
    gist = {"min_num_gist_tokens": 4, "max_num_gist_tokens": 8, "gist_step": 4, "gist_min_text_len": 4}
    transformer = denoiser(
        lambda: BriaFibo2Transformer2DModel(
            in_channels=1,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            cap_feat_dim=48,
            injection_layer_ids=(0,),
            perceiver_num_layers=1,
            gist_max_text_len=64,
            axes_dims=(4, 6, 6),
            axes_lens=(512, 32, 32),
            **gist,
        )
    )
    pipe = BriaFibo2Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=flux2_vae(),
        text_encoder=qwen3_vl_encoder(width=16),
        processor=qwen_processor(Qwen3VLProcessor),
    )
    pipe.text_encoder_out_layers = ((0, 1, 2), (0, 1, 2))  # the real one has 36 layers
    return quiet(pipe)


def build_ernie_image() -> ErnieImagePipeline:
    """Ernie-Image: Mistral 3 without its output matrix, the prompt as it is."""
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_layers": 1, "ffn_hidden_size": 64, "text_in_dim": 16}
    return quiet(
        ErnieImagePipeline(
            transformer=denoiser(
                lambda: ErnieImageTransformer2DModel(**sizes, in_channels=4, out_channels=4, rope_axes_dim=(4, 6, 6))
            ),
            vae=flux2_vae(),
            text_encoder=mistral3_encoder(width=16, model_class=Mistral3Model),
            tokenizer=mistral_tokenizer(),
            scheduler=FlowMatchEulerDiscreteScheduler(),
        )
    )


SMALL = {**ONE_STEP, "height": 16, "width": 16}
LARGER = {**ONE_STEP, "height": 64, "width": 64}
FAMILIES = [
    Family("longcat_image", LongCatImagePipeline, build_longcat_image, {**SMALL, "enable_prompt_rewrite": False}),
    Family("krea2", Krea2Pipeline, build_krea2, {**SMALL, "max_sequence_length": 64}),
    Family("dreamlite", DreamLitePipeline, build_dreamlite, SMALL),
    Family("nucleus_moe", NucleusMoEImagePipeline, build_nucleus_moe, {**SMALL, "return_index": -2}),
    Family("qwen_image21", QwenImage21Pipeline, build_qwen_image21, LARGER),
    # The id of an empty prompt is none of this vocabulary.
    Family("bria_fibo", BriaFiboPipeline, build_bria_fibo, {**LARGER, "negative_prompt": "a cat"}),
    Family("bria_fibo2", BriaFibo2Pipeline, build_bria_fibo2, SMALL),
    Family("ernie_image", ErnieImagePipeline, build_ernie_image, SMALL),
]
