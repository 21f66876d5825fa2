"""Pipelines of model families at their real sizes, from the published configurations; `memory.py` builds them.

`recent_sizes.py` has more of them.

What is not said here is the default of the class. Each function names the repository whose ``config.json`` files it
follows.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from diffusers.models.transformers.transformer_hidream_image import MOEFeedForwardSwiGLU
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from transformers import (
    BatchEncoding,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    LlamaConfig,
    LlamaForCausalLM,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
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


def words(max_length: int, kind: type[WordTokenizer] = WordTokenizer) -> WordTokenizer:
    """Return a tokenizer of a pipeline."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    vocabulary = {token: index for index, token in enumerate([*special, *CAPTION.split()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names: dict[str, Any] = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    return kind(tokenizer_object=tokenizer, model_max_length=max_length, **names)


class WordProcessor(ProcessorMixin):
    """A processor around a tokenizer of words, for pipelines that have one."""

    def __init__(self, tokenizer: WordTokenizer) -> None:
        super().__init__(tokenizer, chat_template=tokenizer.chat_template)

    def __call__(self, images: Any = None, text: Any = None, **options: Any) -> BatchEncoding:  # noqa: D102
        return self.tokenizer([text] if isinstance(text, str) else text, **options)


def chat_words() -> WordTokenizer:
    """Return a tokenizer of words with a chat template that adds a word before and after each message."""
    tokenizer = words(32768)
    tokenizer.chat_template = (
        "{% for message in messages %}user {{ message['content'] if message['content'] is string else "
        "message['content'][0]['text'] }} end {% endfor %}"
    )
    return tokenizer


def clip_l(model: type[Any] = CLIPTextModel, **options: Any) -> Any:
    """OpenAI's CLIP-L: openai/clip-vit-large-patch14."""
    sizes: dict[str, Any] = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    }
    return model(CLIPTextConfig(vocab_size=49408, projection_dim=768, **sizes, **options))


def clip_g(**options: Any) -> CLIPTextModelWithProjection:
    """OpenCLIP's bigG: text_encoder_2 of stabilityai/stable-diffusion-xl-base-1.0."""
    sizes: dict[str, Any] = {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
    }
    return CLIPTextModelWithProjection(
        CLIPTextConfig(vocab_size=49408, projection_dim=1280, hidden_act="gelu", **sizes, **options)
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


class CountedExperts(MOEFeedForwardSwiGLU):
    """Each expert has its share of the tokens: which are whose depends on values, and fake tensors have none."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        _, weight, _ = self.gate(x)
        tokens = x.view(-1, x.shape[-1]).repeat_interleave(self.num_activated_experts, dim=0)
        shares = zip(self.experts, tokens.chunk(len(self.experts)), strict=True)
        made = torch.cat([expert(share) for expert, share in shares])
        made = (made.view(*weight.shape, -1) * weight.unsqueeze(-1)).sum(dim=1)
        return made.view(x.shape).to(x.dtype) + self.shared_experts(x)


class CountedHiDream(HiDreamImageTransformer2DModel):
    """The sides of a picture are known from the number of its tokens: it is a square."""

    def unpatchify(self, x: Tensor, img_sizes: Any, is_training: bool) -> Tensor:  # noqa: D102
        side = math.isqrt(x.shape[1])
        return super().unpatchify(x, [(side, side)] * len(x), is_training)


def hidream() -> Any:
    """HiDream-ai/HiDream-I1-Full, with meta-llama/Meta-Llama-3.1-8B-Instruct."""
    transformer = CountedHiDream(
        patch_size=2,
        in_channels=16,
        caption_channels=[4096, 4096],
        axes_dims_rope=(64, 32, 32),
        llama_layers=[*range(32), *[31] * 16],
    )
    for part in transformer.modules():
        if isinstance(part, MOEFeedForwardSwiGLU):
            part.__class__ = CountedExperts
    sizes: dict[str, Any] = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
    heads: dict[str, Any] = {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256}
    return HiDreamImagePipeline(
        transformer=transformer,
        scheduler=scheduler(FlowMatchEulerDiscreteScheduler, shift=3.0),
        vae=autoencoder_16(sample_size=1024, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=clip_l(CLIPTextModelWithProjection, max_position_embeddings=248),
        tokenizer=words(248),
        text_encoder_2=clip_g(max_position_embeddings=218),
        tokenizer_2=words(218),
        text_encoder_3=t5_xxl(),
        tokenizer_3=words(512),
        text_encoder_4=LlamaForCausalLM(LlamaConfig(**sizes, **heads)),
        tokenizer_4=words(131072),
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


# With language models. Pipelines that choose tokens by the values of a mask, which fake tensors do not have, choose
# them here by their number.


class CountedZImage(ZImagePipeline):
    """The tokens of a prompt are the first of those that the language model reads."""

    def _encode_prompt(
        self, prompt: Any, device: Any = None, max_sequence_length: int = 512, **_: Any
    ) -> list[Tensor]:
        texts = [self.tokenizer.apply_chat_template([{"content": one}], tokenize=False) for one in prompt]
        counts = [len(self.tokenizer(text).input_ids) for text in texts]
        ids = torch.zeros(len(texts), max_sequence_length, dtype=torch.long, device=device)
        hidden = self.text_encoder(input_ids=ids, output_hidden_states=True).hidden_states[-2]
        return [one[:count] for one, count in zip(hidden, counts, strict=True)]


class CountedQwenImage(QwenImagePipeline):
    """Prompts of one length are not padded."""

    def _get_qwen_prompt_embeds(self, prompt: Any = None, device: Any = None, **_: Any) -> tuple[Tensor, None]:
        texts = [self.prompt_template_encode.format(one) for one in prompt]
        ids = self.tokenizer(texts, return_tensors="pt").input_ids.to(device)
        hidden = self.text_encoder(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        return hidden[:, self.prompt_template_encode_start_idx :], None


def qwen3(hidden_size: int, intermediate_size: int, model: type[Any], *, tied: bool) -> Any:
    """Qwen/Qwen3-4B and Qwen/Qwen3-8B."""
    sizes: dict[str, Any] = {"num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8}
    config = Qwen3Config(
        vocab_size=151936,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        head_dim=128,
        tie_word_embeddings=tied,
        **sizes,
    )
    return model(config)


def qwen3_4b(model: type[Any]) -> Any:
    """Qwen/Qwen3-4B."""
    return qwen3(2560, 9728, model, tied=True)


def z_image() -> Any:
    """Tongyi-MAI/Z-Image."""
    return CountedZImage(
        transformer=ZImageTransformer2DModel(),
        scheduler=scheduler(FlowMatchEulerDiscreteScheduler, shift=3.0),
        vae=autoencoder_16(sample_size=1024, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=qwen3_4b(Qwen3Model),
        tokenizer=chat_words(),
    )


def qwen_image() -> Any:
    """Qwen/Qwen-Image."""
    text: dict[str, Any] = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28}
    heads: dict[str, Any] = {"num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064}
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    config = Qwen2_5_VLConfig(
        text_config={**text, **heads, "rope_parameters": rope},
        vision_config={"hidden_size": 1280, "out_hidden_size": 3584},
        tie_word_embeddings=False,
    )
    pipe = CountedQwenImage(
        transformer=QwenImageTransformer2DModel(),
        scheduler=scheduler(FlowMatchEulerDiscreteScheduler, use_dynamic_shifting=True, max_shift=0.9),
        vae=AutoencoderKLQwenImage(),
        text_encoder=Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=chat_words(),
    )
    before, _, _ = pipe.prompt_template_encode.partition("{}")
    pipe.prompt_template_encode_start_idx = len(pipe.tokenizer(before).input_ids)  # the real tokenizer counts 34
    return pipe


def flux_2_dev() -> Any:
    """black-forest-labs/FLUX.2-dev."""
    return Flux2Pipeline(
        transformer=Flux2Transformer2DModel(),
        scheduler=scheduler(FlowMatchEulerDiscreteScheduler, shift=3.0, use_dynamic_shifting=True),
        vae=AutoencoderKLFlux2(),
        text_encoder=Mistral3ForConditionalGeneration(Mistral3Config(tie_word_embeddings=False)),
        tokenizer=WordProcessor(chat_words()),
    )


def flux_2_klein(text_encoder: Any, **sizes: Any) -> Any:
    """Return a Klein; the distilled and the base models have the same sizes."""
    return Flux2KleinPipeline(
        transformer=Flux2Transformer2DModel(guidance_embeds=False, **sizes),
        scheduler=scheduler(FlowMatchEulerDiscreteScheduler, shift=3.0, use_dynamic_shifting=True),
        vae=AutoencoderKLFlux2(),
        text_encoder=text_encoder,
        tokenizer=chat_words(),
    )


def flux_2_klein_4b() -> Any:
    """black-forest-labs/FLUX.2-klein-base-4B."""
    sizes: dict[str, Any] = {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24}
    return flux_2_klein(qwen3_4b(Qwen3ForCausalLM), joint_attention_dim=7680, **sizes)


def flux_2_klein_9b() -> Any:
    """black-forest-labs/FLUX.2-klein-base-9B, with Qwen/Qwen3-8B."""
    sizes: dict[str, Any] = {"num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32}
    text_encoder = qwen3(4096, 12288, Qwen3ForCausalLM, tied=False)
    return flux_2_klein(text_encoder, joint_attention_dim=12288, **sizes)


@dataclass(frozen=True)
class Case:
    """A family at real size.

    Attributes:
        name: Of the model.
        build: Returns the pipeline.
        dtype: Of the frozen parts, as usually loaded.
        published: Parameters by component, in millions.
        rounding: By how much `published` may differ from the truth, as a fraction of it.
    """

    name: str
    build: Callable[[], Any]
    dtype: str
    published: Mapping[str, float]
    rounding: float = 0.01


CLIP_L = {"text_encoder": 123}
BOTH_CLIPS = CLIP_L | {"text_encoder_2": 695}
T5 = 4762
BILLIONS = 0.04
"""Of numbers that are published in whole billions, as parts of the models' names and in their announcements."""

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
    Case(
        "HiDream-I1",
        hidream,
        defaults.HIDREAM.dtype,
        {"transformer": 17000, "text_encoder_3": T5, "text_encoder_4": 8030} | BOTH_CLIPS,
        BILLIONS,
    ),
    Case("PixArt-Sigma", pixart_sigma, defaults.PIXART.dtype, {"transformer": 610, "text_encoder": T5}),
    Case("Sana 1.6B", sana, defaults.SANA.dtype, {"transformer": 1600, "text_encoder": 2614}),
    Case("Z-Image", z_image, "bfloat16", {"transformer": 6000, "text_encoder": 4000}, BILLIONS),
    Case("Qwen-Image", qwen_image, "bfloat16", {"transformer": 20000, "text_encoder": 8290}, BILLIONS),
    Case("Flux.2 dev", flux_2_dev, "bfloat16", {"transformer": 32000, "text_encoder": 24000}, BILLIONS),
    Case("Flux.2 Klein 4B", flux_2_klein_4b, "bfloat16", {"transformer": 4000, "text_encoder": 4000}, BILLIONS),
    Case("Flux.2 Klein 9B", flux_2_klein_9b, "bfloat16", {"transformer": 9000, "text_encoder": 8200}, BILLIONS),
]
