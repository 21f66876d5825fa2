"""Tiny chat models that describe pictures, in the layout of the Hub; all but Gemma's read videos as well.

Their image processors have variants on Pillow, their parts for videos have none, and torchvision is not installed.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    GPT2Tokenizer,
    InternVLConfig,
    InternVLForConditionalGeneration,
    Lfm2VlConfig,
    Lfm2VlForConditionalGeneration,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from .describers import CHAT_TEMPLATE, HIDDEN_SIZE, IMAGE_SIZE, SQUARE, TRANSFORMER, chat_tokenizer, save_model

QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
PIXELS = {"shortest_edge": 64, "longest_edge": 1024}


def build_qwen2_5_vl(folder: Path) -> Path:
    """Like Qwen/Qwen2.5-VL-3B-Instruct."""
    tokenizer, ids = _qwen_tokenizer()
    vision_config = {
        **_VISION,
        "patch_size": 4,
        "window_size": 16,
        "fullatt_block_indexes": [0],
        "out_hidden_size": HIDDEN_SIZE,
    }
    text_config = _text_config(tokenizer, mrope_section=[2, 3, 3])
    config = Qwen2_5_VLConfig(text_config=text_config, vision_config=vision_config, **ids, tie_word_embeddings=False)
    save_model(folder, Qwen2_5_VLForConditionalGeneration, config, tokenizer)
    return _save_processor(
        folder, "Qwen2_5_VLProcessor", "Qwen2VLImageProcessorFast", tokenizer, QWEN_IMAGE, **_patches(PIXELS)
    )


def build_qwen3_vl(folder: Path) -> Path:
    """Like Qwen/Qwen3-VL-2B-Instruct."""
    tokenizer, ids = _qwen_tokenizer()
    vision_config = {
        **_VISION,
        "patch_size": 4,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
        "out_hidden_size": HIDDEN_SIZE,
    }
    text_config = {**_text_config(tokenizer, mrope_section=[2, 3, 3], mrope_interleaved=True), "head_dim": 16}
    config = Qwen3VLConfig(text_config=text_config, vision_config=vision_config, **ids, tie_word_embeddings=False)
    save_model(folder, Qwen3VLForConditionalGeneration, config, tokenizer)
    return _save_processor(
        folder, "Qwen3VLProcessor", "Qwen2VLImageProcessorFast", tokenizer, QWEN_IMAGE, **_patches(PIXELS)
    )


def build_qwen3_5(folder: Path) -> Path:
    """Like Qwen/Qwen3.5-4B, whose first layer has linear attention."""
    tokenizer, ids = _qwen_tokenizer()
    vision_config = {**_VISION, "patch_size": 4, "num_position_embeddings": 64, "out_hidden_size": HIDDEN_SIZE}
    text_config = {
        **_text_config(tokenizer, mrope_section=[2, 3, 3], mrope_interleaved=True, partial_rotary_factor=1.0),
        "head_dim": 16,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    }
    config = Qwen3_5Config(text_config=text_config, vision_config=vision_config, **ids, tie_word_embeddings=False)
    save_model(folder, Qwen3_5ForConditionalGeneration, config, tokenizer)
    return _save_processor(
        folder, "Qwen3VLProcessor", "Qwen2VLImageProcessorFast", tokenizer, QWEN_IMAGE, **_patches(PIXELS)
    )


def build_glm4v(folder: Path) -> Path:
    """Like zai-org/GLM-4.1V-9B-Thinking."""
    special = {
        "image_start_token_id": "<|begin_of_image|>",
        "image_token_id": "<|image|>",
        "image_end_token_id": "<|end_of_image|>",
        "video_start_token_id": "<|begin_of_video|>",
        "video_token_id": "<|video|>",
        "video_end_token_id": "<|end_of_video|>",
    }
    tokenizer = chat_tokenizer(GPT2Tokenizer, list(special.values()))
    vision_config = {**_VISION, "patch_size": 4, "image_size": IMAGE_SIZE, "out_hidden_size": HIDDEN_SIZE}
    config = Glm4vConfig(
        text_config=_text_config(tokenizer, mrope_section=[2, 3, 3]),
        vision_config=vision_config,
        **{name: tokenizer.convert_tokens_to_ids(token) for name, token in special.items()},
    )
    save_model(folder, Glm4vForConditionalGeneration, config, tokenizer)
    image = "<|begin_of_image|><|image|><|end_of_image|>"
    size = {"shortest_edge": 128, "longest_edge": 2048}  # of two frames
    return _save_processor(folder, "Glm4vProcessor", "Glm4vImageProcessor", tokenizer, image, **_patches(size))


def build_internvl(folder: Path) -> Path:
    """Like OpenGVLab/InternVL3-1B-hf; a picture is one patch of four image tokens."""
    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = chat_tokenizer(Qwen2Tokenizer, list(names.values()), extra_special_tokens=names)
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **_text_config(tokenizer)},
        vision_config={**TRANSFORMER, "image_size": [IMAGE_SIZE, IMAGE_SIZE], "patch_size": [8, 8]},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    save_model(folder, InternVLForConditionalGeneration, config, tokenizer)
    (folder / "processor_config.json").write_text(
        json.dumps({"processor_class": "InternVLProcessor", "image_seq_length": 4}), encoding="utf-8"
    )
    options = {"size": SQUARE, "crop_to_patches": False}
    return _save_processor(
        folder, "InternVLProcessor", "GotOcr2ImageProcessorFast", tokenizer, "<IMG_CONTEXT>", **options
    )


def build_gemma3(folder: Path) -> Path:
    """Like google/gemma-3-4b-it; a picture is four image tokens."""
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = chat_tokenizer(GPT2Tokenizer, list(names.values()), extra_special_tokens=names)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}
    config = Gemma3Config(
        text_config={**_text_config(tokenizer), "head_dim": 16, "sliding_window": 512, "rope_parameters": None},
        vision_config={**TRANSFORMER, "image_size": IMAGE_SIZE, "patch_size": 8, "vision_use_head": False},
        mm_tokens_per_image=4,
        boi_token_index=ids["boi_token"],
        eoi_token_index=ids["eoi_token"],
        image_token_index=ids["image_token"],
        tie_word_embeddings=False,
    )
    save_model(folder, Gemma3ForConditionalGeneration, config, tokenizer)
    model = Gemma3ForConditionalGeneration.from_pretrained(folder)
    projection = model.model.multi_modal_projector.mm_input_projection_weight
    nn.init.eye_(projection)  # zero in an untrained model, which would not see the picture
    model.save_pretrained(folder)
    (folder / "processor_config.json").write_text(
        json.dumps({"processor_class": "Gemma3Processor", "image_seq_length": 4}), encoding="utf-8"
    )
    return _save_processor(
        folder, "Gemma3Processor", "Gemma3ImageProcessor", tokenizer, "<start_of_image>", size=SQUARE
    )


def build_lfm2_vl(folder: Path) -> Path:
    """Like LiquidAI/LFM2-VL-450M, whose image processor has no variant on Pillow."""
    tokenizer = chat_tokenizer(GPT2Tokenizer, ["<image>"])
    config = Lfm2VlConfig(
        text_config={"model_type": "lfm2", **_text_config(tokenizer), "layer_types": ["conv", "full_attention"]},
        vision_config={"model_type": "siglip2_vision_model", **TRANSFORMER, "num_patches": 16, "patch_size": 8},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    save_model(folder, Lfm2VlForConditionalGeneration, config, tokenizer)
    return _save_processor(folder, "Lfm2VlProcessor", "Lfm2VlImageProcessorFast", tokenizer, "<image>")


CHAT_CAPTIONERS: dict[str, Callable[[Path], Path]] = {
    "qwen2_5_vl": build_qwen2_5_vl,
    "qwen3_vl": build_qwen3_vl,
    "qwen3_5": build_qwen3_5,
    "glm4v": build_glm4v,
    "internvl": build_internvl,
    "gemma3": build_gemma3,
}
_VISION = {
    "depth": 1,
    "hidden_size": HIDDEN_SIZE,
    "intermediate_size": 64,
    "num_heads": 2,
    "initializer_range": 0.2,
}


def _text_config(tokenizer: PreTrainedTokenizerBase, **rope: Any) -> dict[str, Any]:
    return {
        **TRANSFORMER,
        "vocab_size": len(tokenizer),
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, **rope},
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
    }


def _qwen_tokenizer() -> tuple[Any, dict[str, int]]:
    names = {
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
    }
    tokenizer = chat_tokenizer(Qwen2Tokenizer, list(names.values()))
    return tokenizer, {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}


def _patches(size: dict[str, int]) -> dict[str, Any]:
    return {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2, "size": size}


def _save_processor(
    folder: Path,
    processor_class: str,
    image_processor_type: str,
    tokenizer: PreTrainedTokenizerBase,
    image: str,
    **options: Any,
) -> Path:
    """Write a processor's files as the Hub has them; without torchvision it cannot be built and saved as a whole."""
    tokenizer.save_pretrained(folder)
    preprocessor = {"image_processor_type": image_processor_type, "processor_class": processor_class, **options}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE.replace("<image>", image), encoding="utf-8")
    return folder
