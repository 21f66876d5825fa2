"""Encoders that are language models: tiny configs of the real classes, random weights.

Equal arguments give equal weights. As in the real ones, the embedding matrix has more rows than the tokenizer has
tokens; most of these classes have image encoders and output matrices as well.
"""

from typing import Any

import torch
from diffusers.pipelines.kolors import ChatGLMModel
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig
from transformers import (
    Gemma2Config,
    Gemma2Model,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GemmaConfig,
    GemmaModel,
    GlmConfig,
    GlmModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3Model,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    T5Gemma2Encoder,
    T5Gemma2EncoderConfig,
    T5GemmaConfig,
    T5GemmaEncoderModel,
)

from .language_tokenizers import (
    chatglm_tokenizer,
    gemma_tokenizer,
    glm_tokenizer,
    llama3_tokenizer,
    llama_tokenizer,
    mistral_tokenizer,
    qwen_tokenizer,
    smollm3_tokenizer,
)
from .text import seeded

PADDING_ROWS = 24  # rows of an embedding matrix that no token has

# Encoders


def text_options(tokenizer: PreTrainedTokenizerBase, width: int, layers: int = 2) -> dict[str, Any]:
    """Return what the configs of all these language models have in common."""
    return {
        "vocab_size": len(tokenizer) + PADDING_ROWS,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": width // 2,
        "max_position_embeddings": 4096,
        "initializer_range": 0.2,  # ten times the usual one, so that what goes in changes what comes out
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def qwen2_vl_config(width: int = 16, layers: int = 2, config_class: type = Qwen2_5_VLConfig) -> Any:
    """Return a config of Qwen2-VL or Qwen2.5-VL."""
    tokenizer = qwen_tokenizer()
    vision_config = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "patch_size": 4}
    sections = {"mrope_section": [1, (width // 4 - 1) // 2, width // 4 - 1 - (width // 4 - 1) // 2]}
    rope = {"rope_type": "default", "rope_theta": 1e6, **sections}
    return config_class(
        text_config={**text_options(tokenizer, width, layers), "rope_parameters": rope},
        vision_config={**vision_config, "embed_dim": 16, "out_hidden_size": width, "fullatt_block_indexes": [0]},
        tie_word_embeddings=False,
        **_vision_token_ids(tokenizer),
    )


def qwen2_5_vl_encoder(width: int = 16, layers: int = 2) -> Qwen2_5_VLForConditionalGeneration:
    """Like Qwen2.5-VL, with an image encoder and an output matrix of its own."""
    return seeded(lambda: Qwen2_5_VLForConditionalGeneration(qwen2_vl_config(width, layers)))


def qwen3_vl_encoder(width: int = 16, layers: int = 2, model_class: type = Qwen3VLForConditionalGeneration) -> Any:
    """Like Qwen3-VL, whose image encoder adds to the first layers of the language model."""
    tokenizer = qwen_tokenizer()
    sections = {"mrope_section": [width // 4 - 2, 1, 1], "mrope_interleaved": True}
    vision_config = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "patch_size": 4}
    config = Qwen3VLConfig(
        text_config={
            **text_options(tokenizer, width, layers),
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, **sections},
        },
        vision_config={
            **vision_config,
            "out_hidden_size": width,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        **_vision_token_ids(tokenizer),
    )
    return seeded(lambda: model_class(config))


def qwen3_encoder(width: int = 16, layers: int = 2, model_class: type[PreTrainedModel] = Qwen3Model) -> Any:
    """Like Qwen3, a bare model or one with an output matrix."""
    return seeded(lambda: model_class(Qwen3Config(**text_options(qwen_tokenizer(), width, layers))))


def gemma_encoder(width: int = 16, layers: int = 2) -> GemmaModel:
    """Like Gemma, whose model (not its embedding) multiplies the rows by the root of their width."""
    return seeded(lambda: GemmaModel(GemmaConfig(**text_options(gemma_tokenizer(), width, layers))))


def gemma2_encoder(width: int = 16, layers: int = 2) -> Gemma2Model:
    """Like Gemma 2, whose embedding is a class of its own that multiplies the rows by the root of their width."""
    return seeded(lambda: Gemma2Model(Gemma2Config(**text_options(gemma_tokenizer(), width, layers))))


def gemma3_encoder(width: int = 16, layers: int = 2) -> Gemma3ForConditionalGeneration:
    """Like Gemma 3 with its image encoder."""
    vision_config = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config=text_options(gemma_tokenizer(), width, layers),
        vision_config={**vision_config, "image_size": 16, "patch_size": 4},
        mm_tokens_per_image=4,
        image_token_index=len(gemma_tokenizer()),  # known to the model only
    )
    return seeded(lambda: Gemma3ForConditionalGeneration(config))


def t5gemma_encoder(width: int = 16, layers: int = 2) -> T5GemmaEncoderModel:
    """Like the encoder of T5Gemma."""
    options = text_options(gemma_tokenizer(), width, layers)
    config = T5GemmaConfig(
        encoder=options, decoder=options, is_encoder_decoder=False, vocab_size=options["vocab_size"]
    )
    return seeded(lambda: T5GemmaEncoderModel(config))


def t5gemma2_encoder(width: int = 16, layers: int = 2) -> T5Gemma2Encoder:
    """Like the encoder of T5Gemma 2, with its image encoder."""
    vision_config = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = T5Gemma2EncoderConfig(
        text_config={**text_options(gemma_tokenizer(), width, layers), "dropout_rate": 0.0},
        vision_config={**vision_config, "image_size": 16, "patch_size": 4},
        mm_tokens_per_image=4,
        image_token_index=len(gemma_tokenizer()),  # known to the model only
    )
    return seeded(lambda: T5Gemma2Encoder(config))


def llama_encoder(width: int = 16, layers: int = 3) -> LlamaModel:
    """Like the language model of LLaVA, without its output matrix."""
    return seeded(lambda: LlamaModel(LlamaConfig(**text_options(llama_tokenizer(), width, layers))))


def llama3_encoder(width: int = 16, layers: int = 2) -> LlamaForCausalLM:
    """Like Llama 3.1, which can return its attentions."""
    config = LlamaConfig(**text_options(llama3_tokenizer(), width, layers), attn_implementation="eager")
    return seeded(lambda: LlamaForCausalLM(config))


def mistral3_encoder(
    width: int = 16, layers: int = 3, model_class: type[PreTrainedModel] = Mistral3ForConditionalGeneration
) -> Any:
    """Like Mistral Small 3 with its image encoder, and with or without its output matrix."""
    tokenizer = mistral_tokenizer()
    vision_config = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Mistral3Config(
        text_config={"model_type": "mistral", **text_options(tokenizer, width, layers)},
        vision_config={"model_type": "pixtral", **vision_config, "head_dim": 8, "image_size": 32, "patch_size": 4},
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=1,
    )
    return seeded(lambda: model_class(config))


def glm_encoder(width: int = 16, layers: int = 2) -> GlmModel:
    """Like GLM-4, without its output matrix."""
    return seeded(lambda: GlmModel(GlmConfig(**text_options(glm_tokenizer(), width, layers))))


def smollm3_encoder(width: int = 16, layers: int = 2) -> SmolLM3ForCausalLM:
    """Like SmolLM3, whose output matrix is its input matrix."""
    return seeded(lambda: SmolLM3ForCausalLM(SmolLM3Config(**text_options(smollm3_tokenizer(), width, layers))))


def chatglm_encoder(width: int = 16, layers: int = 2) -> ChatGLMModel:
    """Like ChatGLM3, as diffusers has it for Kolors."""
    config = ChatGLMConfig(
        padded_vocab_size=chatglm_tokenizer().vocab_size + PADDING_ROWS,
        hidden_size=width,
        ffn_hidden_size=2 * width,
        kv_channels=width // 2,
        num_attention_heads=2,
        multi_query_attention=True,
        num_layers=layers,
        seq_length=512,
        add_qkv_bias=True,
        original_rope=True,
    )

    def build() -> ChatGLMModel:
        model = ChatGLMModel(config)
        with torch.no_grad():  # its weights are whatever was in memory
            for name, weight in model.named_parameters():
                weight.fill_(1.0) if "norm" in name else weight.normal_(std=0.2)
        return model

    return seeded(build)


def _vision_token_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    names = {"image_token_id": "image_pad", "video_token_id": "video_pad", "vision_start_token_id": "vision_start"}
    names["vision_end_token_id"] = "vision_end"
    return {key: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for key, name in names.items()}
