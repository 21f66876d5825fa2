"""Pipelines of all model families at their real sizes, from the published configurations; `memory.py` builds them.

What is not said here is the default of the class. Each function names the repository whose ``config.json`` files it
follows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from torch._subclasses.fake_tensor import unset_fake_temporarily
from transformers import (
    BatchEncoding,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from diffusers_supreme_init.backbones import defaults

CAPTION = "a skull and bones mug"
"""Each word is one token of CLIP's vocabulary."""


class WordTokenizer(PreTrainedTokenizerFast):
    """One token for each word; ids have to be real, because the package and pipelines look at them."""

    def __call__(self, *args: Any, **options: Any) -> BatchEncoding:  # noqa: D102
        with unset_fake_temporarily():
            return super().__call__(*args, **options)


def words(max_length: int) -> WordTokenizer:
    """Return a tokenizer of a pipeline."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    vocabulary = {token: index for index, token in enumerate([*special, *CAPTION.split()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names: dict[str, Any] = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    return WordTokenizer(tokenizer_object=tokenizer, model_max_length=max_length, **names)


def clip_l(model: type[Any] = CLIPTextModel) -> Any:
    """OpenAI's CLIP-L: openai/clip-vit-large-patch14."""
    sizes: dict[str, Any] = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    }
    return model(CLIPTextConfig(vocab_size=49408, projection_dim=768, **sizes))


def clip_g() -> CLIPTextModelWithProjection:
    """OpenCLIP's bigG: text_encoder_2 of stabilityai/stable-diffusion-xl-base-1.0."""
    sizes: dict[str, Any] = {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
    }
    return CLIPTextModelWithProjection(
        CLIPTextConfig(vocab_size=49408, projection_dim=1280, hidden_act="gelu", **sizes)
    )


def t5_xxl() -> T5EncoderModel:
    """The encoder of google/t5-v1_1-xxl."""
    sizes: dict[str, Any] = {"d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64, "num_layers": 24}
    return T5EncoderModel(T5Config(vocab_size=32128, feed_forward_proj="gated-gelu", **sizes))


def autoencoder(latent_channels: int = 4, **options: Any) -> AutoencoderKL:
    """The autoencoder that all families but Sana share, in the sizes of its latents."""
    blocks: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    widths: dict[str, Any] = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
    return AutoencoderKL(latent_channels=latent_channels, **blocks, **widths, **options)


def autoencoder_16(**options: Any) -> AutoencoderKL:
    """The same with 16 latent channels: Stable Diffusion 3 and Flux."""
    return autoencoder(16, use_quant_conv=False, use_post_quant_conv=False, **options)


def betas() -> dict[str, Any]:
    """The noise schedule of Stable Diffusion."""
    return {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def scheduler(kind: type[Any], **options: Any) -> Any:
    """Return a scheduler, which looks into its own tensors and so cannot be fake."""
    with unset_fake_temporarily(), torch.device("cpu"):
        return kind(**options)


def stable_diffusion(text_encoder: CLIPTextModel, unet: UNet2DConditionModel, **options: Any) -> Any:
    """Return Stable Diffusion 1 or 2."""
    return StableDiffusionPipeline(
        vae=autoencoder(sample_size=512, scaling_factor=0.18215),
        text_encoder=text_encoder,
        tokenizer=words(77),
        unet=unet,
        scheduler=scheduler(DDIMScheduler, steps_offset=1, clip_sample=False, **betas(), **options),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_1_5() -> Any:
    """stable-diffusion-v1-5/stable-diffusion-v1-5."""
    return stable_diffusion(clip_l(), UNet2DConditionModel(sample_size=64, cross_attention_dim=768))


def stable_diffusion_2_1() -> Any:
    """stabilityai/stable-diffusion-2-1."""
    sizes: dict[str, Any] = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
    }
    text_encoder = CLIPTextModel(CLIPTextConfig(vocab_size=49408, hidden_act="gelu", **sizes))
    heads: dict[str, Any] = {"attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
    unet = UNet2DConditionModel(sample_size=96, cross_attention_dim=1024, **heads)
    return stable_diffusion(text_encoder, unet, prediction_type="v_prediction")


def stable_diffusion_xl() -> Any:
    """stabilityai/stable-diffusion-xl-base-1.0."""
    unet = UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    return StableDiffusionXLPipeline(
        vae=autoencoder(sample_size=1024, scaling_factor=0.13025),
        text_encoder=clip_l(),
        text_encoder_2=clip_g(),
        tokenizer=words(77),
        tokenizer_2=words(77),
        unet=unet,
        scheduler=scheduler(EulerDiscreteScheduler, steps_offset=1, **betas()),
    )


def stable_diffusion_3(num_layers: int, **options: Any) -> Any:
    """Return Stable Diffusion 3 or 3.5; it has one attention head of 64 per layer."""
    transformer = SD3Transformer2DModel(
        sample_size=128,
        patch_size=2,
        in_channels=16,
        num_layers=num_layers,
        num_attention_heads=num_layers,
        attention_head_dim=64,
        caption_projection_dim=64 * num_layers,
        joint_attention_dim=4096,
        pooled_projection_dim=2048,
        pos_embed_max_size=192,
        **options,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=scheduler(FlowMatchEulerDiscreteScheduler, shift=3.0),
        vae=autoencoder_16(sample_size=1024, scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=clip_l(CLIPTextModelWithProjection),
        tokenizer=words(77),
        text_encoder_2=clip_g(),
        tokenizer_2=words(77),
        text_encoder_3=t5_xxl(),
        tokenizer_3=words(512),
    )


def flux() -> Any:
    """black-forest-labs/FLUX.1-dev."""
    return FluxPipeline(
        transformer=FluxTransformer2DModel(guidance_embeds=True),
        scheduler=scheduler(FlowMatchEulerDiscreteScheduler, shift=3.0, use_dynamic_shifting=True),
        vae=autoencoder_16(sample_size=1024, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=clip_l(),
        tokenizer=words(77),
        text_encoder_2=t5_xxl(),
        tokenizer_2=words(512),
    )


def pixart_sigma() -> Any:
    """PixArt-alpha/PixArt-Sigma-XL-2-1024-MS."""
    options: dict[str, Any] = {"caption_channels": 4096, "interpolation_scale": 2, "use_additional_conditions": False}
    return PixArtSigmaPipeline(
        transformer=PixArtTransformer2DModel(sample_size=128, out_channels=8, **options),
        scheduler=scheduler(DPMSolverMultistepScheduler, beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
        vae=autoencoder(sample_size=1024, scaling_factor=0.13025),
        text_encoder=t5_xxl(),
        tokenizer=words(300),
    )


def sana() -> Any:
    """Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers, with dc-ae-f32c32-sana-1.0 and google/gemma-2-2b-it."""
    blocks = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    scales = ((),) * 3 + ((5,),) * 3
    vae = AutoencoderDC(
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales,
        encoder_layers_per_block=(2, 2, 2, 3, 3, 3),
        decoder_layers_per_block=(3,) * 6,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41407,
    )
    return SanaPipeline(
        transformer=SanaTransformer2DModel(),
        scheduler=scheduler(
            DPMSolverMultistepScheduler, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        vae=vae,
        text_encoder=Gemma2Model(Gemma2Config()),
        tokenizer=words(300),
    )


@dataclass(frozen=True)
class Case:
    """A family at real size.

    Attributes:
        name: Of the model.
        build: Returns the pipeline.
        dtype: Of the frozen parts, as usually loaded.
        published: Parameters by component, in millions.
    """

    name: str
    build: Callable[[], Any]
    dtype: str
    published: Mapping[str, float]


CLIP_L = {"text_encoder": 123}
BOTH_CLIPS = CLIP_L | {"text_encoder_2": 695}
T5 = 4762

CASES = [
    Case("SD 1.5", stable_diffusion_1_5, defaults.STABLE_DIFFUSION.dtype, {"unet": 860} | CLIP_L),
    Case("SD 2.1", stable_diffusion_2_1, defaults.STABLE_DIFFUSION.dtype, {"unet": 866, "text_encoder": 340}),
    Case("SDXL", stable_diffusion_xl, defaults.STABLE_DIFFUSION_XL.dtype, {"unet": 2567} | BOTH_CLIPS),
    Case(
        "SD 3 medium",
        lambda: stable_diffusion_3(24),
        defaults.STABLE_DIFFUSION_3.dtype,
        {"transformer": 2030, "text_encoder_3": T5} | BOTH_CLIPS,
    ),
    Case(
        "SD 3.5 large",
        lambda: stable_diffusion_3(38, qk_norm="rms_norm"),
        "bfloat16",  # as published; the hint of the family is that of 3
        {"transformer": 8060, "text_encoder_3": T5} | BOTH_CLIPS,
    ),
    Case("Flux.1-dev", flux, defaults.FLUX.dtype, {"transformer": 11900, "text_encoder_2": T5} | CLIP_L),
    Case("PixArt-Sigma", pixart_sigma, defaults.PIXART_SIGMA.dtype, {"transformer": 610, "text_encoder": T5}),
    Case("Sana 1.6B", sana, defaults.SANA.dtype, {"transformer": 1600, "text_encoder": 2614}),
]
