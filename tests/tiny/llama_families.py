"""Tiny pipelines of pictures whose text encoder is a Llama or a GLM."""

from diffusers import (
    CogView4Pipeline,
    CogView4Transformer2DModel,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
    KolorsPipeline,
    UNet2DConditionModel,
)

from .families import Family, quiet
from .language_models import chatglm_encoder, glm_encoder, llama3_encoder
from .language_tokenizers import chatglm_tokenizer, glm_tokenizer, llama3_tokenizer
from .parts import ONE_STEP, denoiser, flow_vae
from .text import clip_text_encoder, clip_tokenizer, seeded, t5_encoder, t5_tokenizer


def build_cogview4() -> CogView4Pipeline:
    """CogView4: GLM-4, the prompt as it is."""
    transformer = denoiser(
        lambda: CogView4Transformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            text_embed_dim=16,
            time_embed_dim=8,
            condition_dim=4,
            sample_size=16,
            rope_axes_dim=(8, 8),
        )
    )
    return quiet(
        CogView4Pipeline(
            tokenizer=glm_tokenizer(),
            text_encoder=glm_encoder(width=16),
            vae=flow_vae(),
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(base_shift=0.25, max_shift=0.75, use_dynamic_shifting=True),
        )
    )


def build_hidream() -> HiDreamImagePipeline:
    """HiDream: CLIP-L and CLIP-G for the pooled vector, T5 and every layer of Llama 3 for the sequence."""
    transformer = denoiser(
        lambda: HiDreamImageTransformer2DModel(
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_channels=[20, 16],
            text_emb_dim=32 + 48,
            num_routed_experts=2,
            num_activated_experts=1,
            axes_dims_rope=(4, 2, 2),
            max_resolution=(32, 32),
            llama_layers=(0, 1),
            force_inference_output=True,
        )
    )
    pipe = HiDreamImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=flow_vae(),
        text_encoder=clip_text_encoder(projection=True),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip_text_encoder(48, projection=True, seed=1),
        tokenizer_2=clip_tokenizer(pad="!"),
        text_encoder_3=t5_encoder(20),
        tokenizer_3=t5_tokenizer(),
        text_encoder_4=llama3_encoder(width=16),
        tokenizer_4=llama3_tokenizer(),
        transformer=transformer,
    )
    pipe.default_sample_size = 8  # it makes every picture as large as 128 x 128 latents, else
    return quiet(pipe)


def build_kolors() -> KolorsPipeline:
    """Kolors: ChatGLM, whose last hidden state is the pooled vector, and a U-Net like that of SDXL."""
    unet = seeded(
        lambda: UNet2DConditionModel(
            sample_size=8,
            layers_per_block=1,
            block_out_channels=(4, 8),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(2, 4),
            norm_num_groups=1,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=16 + 6 * 8,
            cross_attention_dim=16,
        )
    )
    return quiet(
        KolorsPipeline(
            vae=flow_vae(),
            text_encoder=chatglm_encoder(width=16),
            tokenizer=chatglm_tokenizer(),
            unet=unet,
            scheduler=EulerDiscreteScheduler(),
        )
    )


FAMILIES = [
    Family("cogview4", CogView4Pipeline, build_cogview4, {**ONE_STEP, "height": 16, "width": 16}),
    Family(
        "hidream",
        HiDreamImagePipeline,
        build_hidream,
        {**ONE_STEP, "height": 8, "width": 8, "max_sequence_length": 64},
    ),
    Family(
        "kolors",
        KolorsPipeline,
        build_kolors,
        {**ONE_STEP, "height": 8, "width": 8, "max_sequence_length": 32},
    ),
]
