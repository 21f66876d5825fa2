"""Pipelines of more model families at their real sizes, as in `real_sizes.py`.

Each function names the repository whose ``config.json`` files it follows. Pipelines and models that choose tokens by
values, which fake tensors do not have, choose them here by their number.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    AutoencoderKLQwenImage21,
    ChromaPipeline,
    ChromaTransformer2DModel,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    ErnieImagePipeline,
    ErnieImageTransformer2DModel,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    Ideogram4Pipeline,
    Ideogram4Transformer2DModel,
    KolorsPipeline,
    Krea2Pipeline,
    Krea2Transformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
    UNet2DConditionModel,
)
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel
from real_sizes import (
    BILLIONS,
    CAPTION,
    T5,
    Case,
    WordProcessor,
    WordTokenizer,
    autoencoder,
    autoencoder_16,
    betas,
    chat_words,
    scheduler,
    t5_xxl,
    words,
)
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    Gemma2Config,
    Gemma2Model,
    GlmConfig,
    GlmModel,
    Mistral3Config,
    Mistral3Model,
    MT5Config,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLModel,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from diffusers_supreme_init.backbones import defaults


def qwen3_vl(model: type[Any], hidden_size: int, intermediate_size: int, vision: dict[str, Any], *, tied: bool) -> Any:
    """Return a Qwen3-VL."""
    sizes: dict[str, Any] = {"num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8}
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]}
    text = {"hidden_size": hidden_size, "intermediate_size": intermediate_size, "head_dim": 128, **sizes}
    config = Qwen3VLConfig(
        text_config={**text, "rope_parameters": rope, "tie_word_embeddings": tied},
        vision_config={**vision, "out_hidden_size": hidden_size},
        tie_word_embeddings=tied,
    )
    return model(config)


def qwen3_vl_4b(model: type[Any]) -> Any:
    """Qwen/Qwen3-VL-4B-Instruct."""
    vision = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]}
    return qwen3_vl(model, 2560, 9728, vision, tied=True)


def qwen3_vl_8b(model: type[Any]) -> Any:
    """Qwen/Qwen3-VL-8B-Instruct."""
    return qwen3_vl(model, 4096, 12288, {}, tied=False)


class CountedQwenImage21(QwenImage21Pipeline):
    """Prompts of one length are not padded."""

    def _get_qwen_prompt_embeds(self, prompt: Any = None, image: Any = None, device: Any = None) -> Any:
        ids = self.processor(text=[self.prompt_template_t2i.format(one) for one in prompt], return_tensors="pt")
        hidden = self.text_encoder(input_ids=ids.input_ids.to(device), output_hidden_states=True).hidden_states[-1]
        hidden = hidden[:, self._drop_idx :]
        mask = hidden.new_ones(hidden.shape[:2], dtype=torch.bool)
        return hidden, None, mask


class CountedQwenImage21Transformer(QwenImage21Transformer2DModel):
    """The sequence is the prompt, and then the picture."""

    def forward(  # noqa: D102 - see the class above it
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        timestep: Tensor,
        img_shapes: Sequence[Any],
        img_mask: Tensor,
    ) -> Transformer2DModelOutput:
        num_text = encoder_hidden_states.shape[1]
        joint = torch.cat([self.txt_in(encoder_hidden_states), self.img_in(hidden_states)], dim=1)
        is_picture = torch.arange(joint.shape[1], device=joint.device) >= num_text
        angles = torch.empty(joint.shape[1], self.config.attention_head_dim // 2, device=joint.device)
        rotary = torch.polar(angles, angles)
        times = torch.cat([timestep.to(joint.dtype), timestep.new_zeros(1).to(joint.dtype)])
        embedded = self.time_text_embed(times, joint)
        modulation = self.modulation(embedded)
        for block in self.transformer_blocks:
            given = (joint, modulation, rotary, None, is_picture, None, None, None, [(0, num_text, True)], None)
            recomputing = torch.is_grad_enabled() and self.gradient_checkpointing
            joint = self._gradient_checkpointing_func(block, *given) if recomputing else block(*given)
        return Transformer2DModelOutput(sample=self.proj_out(self.norm_out(joint, embedded, is_picture)))


def qwen_image_21() -> Any:
    """Qwen/Qwen-Image-2.1."""
    return CountedQwenImage21(
        transformer=CountedQwenImage21Transformer(),
        scheduler=scheduler(FlowMatchEulerDiscreteScheduler, use_dynamic_shifting=True),
        vae=AutoencoderKLQwenImage21(),
        text_encoder=qwen3_vl_8b(Qwen3VLForConditionalGeneration),
        processor=WordProcessor(chat_words()),
    )


def krea_2() -> Any:
    """krea/Krea-2-Raw."""
    pipe = Krea2Pipeline(
        transformer=Krea2Transformer2DModel(),
        scheduler=scheduler(FlowMatchEulerDiscreteScheduler, use_dynamic_shifting=True),
        vae=AutoencoderKLQwenImage(),
        text_encoder=qwen3_vl_4b(Qwen3VLModel),
        tokenizer=chat_words(),
    )
    before, after = pipe.prompt_template_encode_prefix, pipe.prompt_template_encode_suffix
    pipe.prompt_template_encode_start_idx = len(pipe.tokenizer(before).input_ids)  # the real tokenizer counts 34
    pipe.prompt_template_encode_num_suffix_tokens = len(pipe.tokenizer(after).input_ids)
    return pipe


def ernie_image() -> Any:
    """baidu/ERNIE-Image, with the sizes of mistralai/Ministral-3-3B-Instruct-2512."""
    sizes: dict[str, Any] = {"num_hidden_layers": 26, "num_attention_heads": 32, "num_key_value_heads": 8}
    text = {"model_type": "ministral3", "hidden_size": 3072, "intermediate_size": 9216, "head_dim": 128, **sizes}
    config = Mistral3Config(text_config={**text, "vocab_size": 131072}, tie_word_embeddings=True)
    transformer = ErnieImageTransformer2DModel(
        hidden_size=4096, num_attention_heads=32, num_layers=36, ffn_hidden_size=12288, text_in_dim=3072
    )
    return ErnieImagePipeline(
        transformer=transformer,
        scheduler=scheduler(FlowMatchEulerDiscreteScheduler, shift=3.0),
        vae=AutoencoderKLFlux2(),
        text_encoder=Mistral3Model(config),
        tokenizer=words(32768),
        pe=None,
        pe_tokenizer=None,
    )


def ideogram_4() -> Any:
    """ideogram-ai/ideogram-4-fp8, in bfloat16."""
    return Ideogram4Pipeline(
        scheduler=scheduler(FlowMatchEulerDiscreteScheduler),
        vae=AutoencoderKLFlux2(),
        text_encoder=qwen3_vl_8b(Qwen3VLModel),
        tokenizer=chat_words(),
        transformer=Ideogram4Transformer2DModel(),
        unconditional_transformer=Ideogram4Transformer2DModel(),
    )


def chroma() -> Any:
    """lodestones/Chroma1-HD."""
    return ChromaPipeline(
        transformer=ChromaTransformer2DModel(),
        scheduler=scheduler(FlowMatchEulerDiscreteScheduler, shift=3.0, use_dynamic_shifting=True),
        vae=autoencoder_16(sample_size=1024, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=t5_xxl(),
        tokenizer=words(512),
    )


class CountedMask:
    """The mask of prompts of one length."""

    def __init__(self, mask: Tensor, num_text: int) -> None:
        self.shape = mask.shape
        self._num_text = num_text

    def sum(self, dim: int) -> "CountedMask":
        """Return what has the lengths."""
        return self

    def tolist(self) -> list[int]:
        """Return the lengths."""
        return [self._num_text] * self.shape[0]


def lumina_2() -> Any:
    """Alpha-VLLM/Lumina-Image-2.0, with google/gemma-2-2b."""
    transformer = Lumina2Transformer2DModel(cap_feat_dim=2304)
    place = transformer.rope_embedder.forward
    pipe = Lumina2Pipeline(
        transformer=transformer,
        scheduler=scheduler(FlowMatchEulerDiscreteScheduler, shift=6.0),
        vae=autoencoder_16(sample_size=1024, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=Gemma2Model(Gemma2Config()),
        tokenizer=words(256),
    )
    num_text = len(pipe.tokenizer(f"{pipe.system_prompt} <Prompt Start> a photo of {CAPTION}").input_ids)
    transformer.rope_embedder.forward = lambda latents, mask: place(latents, CountedMask(mask, num_text))
    return pipe


def pixart_alpha() -> Any:
    """PixArt-alpha/PixArt-XL-2-1024-MS."""
    options: dict[str, Any] = {"caption_channels": 4096, "interpolation_scale": 2, "use_additional_conditions": True}
    return PixArtAlphaPipeline(
        transformer=PixArtTransformer2DModel(sample_size=128, out_channels=8, **options),
        scheduler=scheduler(DPMSolverMultistepScheduler, beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
        vae=autoencoder(sample_size=1024),
        text_encoder=t5_xxl(),
        tokenizer=words(120),
    )


class CountedCogView4(CogView4Pipeline):
    """Prompts are padded to a multiple of 16 tokens, and none is too long."""

    def _get_glm_embeds(self, prompt: Any, max_sequence_length: int, device: Any, *_: Any) -> Tensor:
        length = max(len(ids) for ids in self.tokenizer(prompt).input_ids)
        ids = torch.zeros(len(prompt), math.ceil(length / 16) * 16, dtype=torch.long, device=device)
        return self.text_encoder(ids, output_hidden_states=True).hidden_states[-2]


def cogview_4() -> Any:
    """THUDM/CogView4-6B, with zai-org/glm-4-9b."""
    heads: dict[str, Any] = {"num_attention_heads": 32, "attention_head_dim": 128, "num_layers": 28}
    return CountedCogView4(
        transformer=CogView4Transformer2DModel(**heads),
        scheduler=scheduler(
            FlowMatchEulerDiscreteScheduler, use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75
        ),
        vae=autoencoder_16(sample_size=1024, scaling_factor=1.0),
        text_encoder=GlmModel(GlmConfig()),
        tokenizer=words(1024),
    )


class PositionedWords(WordTokenizer):
    """ChatGLM's tokenizer also returns positions."""

    def __call__(self, *args: Any, **options: Any) -> Any:  # noqa: D102
        made = super().__call__(*args, **options)
        made["position_ids"] = made["input_ids"]
        return made


class CountedChatGLM(ChatGLMModel):
    """Prompts are padded, whatever their length."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Any:  # noqa: D102
        mask = self.get_masks(input_ids, None, padding_mask=attention_mask)
        return super().forward(input_ids, full_attention_mask=mask, **options)


def kolors() -> Any:
    """Kwai-Kolors/Kolors-diffusers, with ChatGLM3-6B."""
    unet = UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        encoder_hid_dim=4096,
        encoder_hid_dim_type="text_proj",
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=4096 + 6 * 256,
    )
    options = {"multi_query_attention": True, "multi_query_group_num": 2, "add_qkv_bias": True, "original_rope": True}
    return KolorsPipeline(
        vae=autoencoder(sample_size=1024, scaling_factor=0.13025),
        text_encoder=CountedChatGLM(ChatGLMConfig(**options), empty_init=False),
        tokenizer=words(256, PositionedWords),
        unet=unet,
        scheduler=scheduler(EulerDiscreteScheduler, **betas() | {"beta_end": 0.014}, num_train_timesteps=1100),
    )


def hunyuan_dit() -> Any:
    """Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers, whose second text encoder is that of google/mt5-xl."""
    bert: dict[str, Any] = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    mt5: dict[str, Any] = {"d_model": 2048, "d_ff": 5120, "d_kv": 64, "num_heads": 32, "num_layers": 24}
    transformer = HunyuanDiT2DModel(
        in_channels=4, patch_size=2, hidden_size=1408, num_layers=40, mlp_ratio=4.3637, sample_size=128
    )
    return HunyuanDiTPipeline(
        vae=autoencoder(sample_size=1024, scaling_factor=0.13025),
        text_encoder=BertModel(BertConfig(vocab_size=47020, intermediate_size=4096, **bert)),
        tokenizer=words(77),
        transformer=transformer,
        scheduler=scheduler(DDPMScheduler, **betas() | {"beta_end": 0.018}, prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        text_encoder_2=T5EncoderModel(MT5Config(vocab_size=250112, **mt5)),
        tokenizer_2=words(256),
    )


def aura_flow() -> Any:
    """fal/AuraFlow-v0.3, with the encoder of EleutherAI/pile-t5-xl."""
    sizes: dict[str, Any] = {"d_model": 2048, "d_ff": 5120, "d_kv": 64, "num_heads": 32, "num_layers": 24}
    return AuraFlowPipeline(
        tokenizer=words(256),
        text_encoder=UMT5EncoderModel(UMT5Config(vocab_size=32128, feed_forward_proj="gated-gelu", **sizes)),
        vae=autoencoder(sample_size=1024, scaling_factor=0.13025),
        transformer=AuraFlowTransformer2DModel(pos_embed_max_size=math.prod((96, 96))),
        scheduler=scheduler(FlowMatchEulerDiscreteScheduler, shift=1.73),
    )


CASES = [
    Case("Qwen-Image 2.1", qwen_image_21, "bfloat16", {"transformer": 7000, "text_encoder": 8770}, BILLIONS),
    # Half of the bytes of the transformer's file in bfloat16; "12 billion" in the model's announcement.
    Case("Krea 2", krea_2, "bfloat16", {"transformer": 13150, "text_encoder": 4440}, BILLIONS),
    Case("Ernie-Image", ernie_image, "bfloat16", {"transformer": 8000, "text_encoder": 3800}, BILLIONS),
    Case("Ideogram 4", ideogram_4, "bfloat16", {"transformer": 9280, "text_encoder": 8150}),
    Case("Chroma", chroma, defaults.CHROMA.dtype, {"transformer": 8900, "text_encoder": T5}),
    Case("Lumina 2", lumina_2, "bfloat16", {"transformer": 2600, "text_encoder": 2614}),
    Case("PixArt-alpha", pixart_alpha, defaults.PIXART.dtype, {"transformer": 611, "text_encoder": T5}),
    Case("CogView4", cogview_4, "bfloat16", {"transformer": 6365, "text_encoder": 8780}),  # half of the files' bytes
    # From memory, as the options in `kolors` are: no page with them could be opened.
    Case("Kolors", kolors, defaults.KOLORS.dtype, {"unet": 2580, "text_encoder": 6240}),
    Case(
        "HunyuanDiT", hunyuan_dit, defaults.HUNYUAN_DIT.dtype, {"transformer": 1500, "text_encoder_2": 1670}, BILLIONS
    ),
    Case("AuraFlow", aura_flow, defaults.AURA_FLOW.dtype, {"transformer": 6800, "text_encoder": 1225}),
]
"""What `real_sizes.CASES` lacks."""
