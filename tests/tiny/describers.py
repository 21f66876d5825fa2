"""Checkpoints of describers in the layout of the Hub: random weights, 32 px pictures, vocabularies written here.

Every function fills a folder and returns it; equal arguments give equal files. Captioners only ever say words of
`WORDS`, so that a caption is never empty; what they say depends on the picture and on the prompt.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import (
    BartTokenizer,
    BertTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipProcessor,
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    GitConfig,
    GitForCausalLM,
    GitProcessor,
    GPT2Tokenizer,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Sam2Config,
    Sam2Model,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam3Config,
    Sam3LiteTextConfig,
    Sam3LiteTextModel,
    Sam3Model,
    Sam3TrackerConfig,
    Sam3TrackerModel,
    Sam3TrackerVideoConfig,
    Sam3VideoConfig,
    Sam3VideoModel,
    SamConfig,
    SamHQConfig,
    SamHQModel,
    SamModel,
    ViTConfig,
    ViTForImageClassification,
)

# The root of the package exports the classes that need torchvision; these are their twins.
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

TOYBOX = Path(__file__).resolve().parents[2] / "examples" / "toybox"
IMAGE_SIZE = 32
SAM_IMAGE_SIZE = 64
HIDDEN_SIZE = 32
# Of the first ten: with these, captions differ most from picture to picture, and no mask was empty.
SPEAKING_SEED, SEEING_SEED = 7, 2
LABELS = (
    *("tabby, tabby cat", "notebook, notebook computer", "tench, Tinca tinca"),  # as ImageNet has them
    *("mug", "poll, poll_parrot", "LABEL_5"),  # BEiT has underscores; who has no name has a number
)
WORDS = (
    *("a", "the", "and", "of", "with", "on", "in", "two", "small", "big", "round", "tall", "old", "shiny", "wooden"),
    *("red", "blue", "green", "yellow", "white", "black", "pink", "brown", "mug", "bowl", "ball", "book", "chair"),
    *("cat", "dog", "bird", "fish", "car", "house", "tree", "flower", "hat", "shoe", "lamp", "clock"),
    *("skull", "bones", "stripes", "dots", "checks", "stars", "handle", "lid", "table", "floor", "wall", "photo"),
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRANSFORMER = {
    "hidden_size": HIDDEN_SIZE,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.2,  # ten times the usual one, so that what goes in changes what comes out
}
VISION = {**TRANSFORMER, "image_size": IMAGE_SIZE, "patch_size": 8}
SQUARE = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}


# Captioners: AutoModelForImageTextToText and AutoProcessor


def build_blip(folder: Path) -> Path:
    """Like Salesforce/blip-image-captioning-base."""
    tokenizer = _wordpiece_tokenizer()
    text_config = {
        **TRANSFORMER,
        "vocab_size": len(tokenizer) + 2,  # [DEC] and [ENC] are known to the model only
        "encoder_hidden_size": HIDDEN_SIZE,
        "projection_dim": HIDDEN_SIZE,
        "bos_token_id": len(tokenizer),
        "eos_token_id": 2,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "max_position_embeddings": 512,
    }
    config = BlipConfig(
        text_config=text_config,
        vision_config=VISION,
        projection_dim=HIDDEN_SIZE,
        image_text_hidden_size=HIDDEN_SIZE,
        tie_word_embeddings=False,
    )
    save_model(folder, BlipForConditionalGeneration, config, tokenizer)
    return _save_processor(folder, BlipProcessor(BlipImageProcessorPil(size=SQUARE), tokenizer))


def build_git(folder: Path) -> Path:
    """Like microsoft/git-base-coco."""
    tokenizer = _wordpiece_tokenizer()
    config = GitConfig(
        **TRANSFORMER,
        vision_config=VISION,
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    save_model(folder, GitForCausalLM, config, tokenizer)
    return _save_processor(folder, GitProcessor(_clip_image_processor(), tokenizer))


def build_blip2(folder: Path) -> Path:
    """Like Salesforce/blip2-opt-2.7b."""
    special_tokens = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    tokenizer = _byte_level_tokenizer(GPT2Tokenizer, ["<pad>", "</s>"], ["<image>"], **special_tokens)
    bos = [("</s>", tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="</s> $A", special_tokens=bos)
    processor = Blip2Processor(BlipImageProcessorPil(size=SQUARE), tokenizer, num_query_tokens=4)
    text_config = {
        "model_type": "opt",
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN_SIZE,
        "word_embed_proj_dim": HIDDEN_SIZE,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "init_std": 0.2,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
    }
    config = Blip2Config(
        vision_config=VISION,
        qformer_config={**TRANSFORMER, "vocab_size": 8, "max_position_embeddings": 8},
        text_config=text_config,
        num_query_tokens=4,
        image_text_hidden_size=HIDDEN_SIZE,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        initializer_range=0.2,
        tie_word_embeddings=False,
    )
    save_model(folder, Blip2ForConditionalGeneration, config, tokenizer)
    return _save_processor(folder, processor)


def build_florence2(folder: Path) -> Path:
    """Like florence-community/Florence-2-base."""
    locations = [f"<loc_{bin_}>" for bin_ in range(1000)]
    tokenizer = _byte_level_tokenizer(
        BartTokenizer,
        ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        ["<image>"],
        locations,
        extra_special_tokens={"image_token": "<image>"},
    )
    image_processor = CLIPImageProcessorPil(
        size=SQUARE, do_center_crop=False, crop_size=SQUARE, resample=3, image_seq_length=5
    )
    text_config = {
        "model_type": "bart",
        "vocab_size": len(tokenizer),
        "d_model": HIDDEN_SIZE,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "max_position_embeddings": 512,
        "init_std": 0.4,  # the prompt is longer than the picture: less, and the caption is the same for each region
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "decoder_start_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": False,
    }
    vision_config = {
        "depths": (1, 1, 1, 1),
        "embed_dim": (8, 8, 16, 16),
        "num_heads": (1, 1, 2, 2),
        "num_groups": (1, 1, 2, 2),
        "patch_stride": (4, 2, 2, 1),
        "window_size": 2,
        "drop_path_rate": 0.0,
        "projection_dim": HIDDEN_SIZE,
        "initializer_range": 0.2,
    }
    config = Florence2Config(
        text_config=text_config,
        vision_config=vision_config,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    save_model(folder, Florence2ForConditionalGeneration, config, tokenizer)
    return _save_processor(folder, Florence2Processor(image_processor, tokenizer))


def build_idefics3(folder: Path) -> Path:
    """Like HuggingFaceTB/SmolVLM-256M-Instruct, a chat model; each picture becomes one tile of four image tokens."""
    image_tokens = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = chat_tokenizer(GPT2Tokenizer, image_tokens + tiles)
    size = {"longest_edge": IMAGE_SIZE}
    image_processor = Idefics3ImageProcessorPil(size=size, max_image_size=size)
    config = Idefics3Config(
        vision_config=VISION,
        text_config=_llama_config(tokenizer).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    save_model(folder, Idefics3ForConditionalGeneration, config, tokenizer)
    processor = Idefics3Processor(image_processor, tokenizer, image_seq_len=4, chat_template=CHAT_TEMPLATE)
    return _save_processor(folder, processor)


def build_llava(folder: Path) -> Path:
    """Like llava-hf/llava-1.5-7b-hf, a chat model."""
    tokenizer = chat_tokenizer(GPT2Tokenizer, ["<image>"])
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **VISION, "projection_dim": HIDDEN_SIZE},
        text_config=_llama_config(tokenizer).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    save_model(folder, LlavaForConditionalGeneration, config, tokenizer)
    processor = LlavaProcessor(
        _clip_image_processor(),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    return _save_processor(folder, processor)


# Classifiers: AutoModelForImageClassification, or AutoModelForZeroShotImageClassification


def build_vit(folder: Path, labels: Sequence[str] = LABELS) -> Path:
    """Like google/vit-base-patch16-224, with these labels."""
    config = ViTConfig(
        **VISION, id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)}
    )
    save_model(folder, ViTForImageClassification, config)
    ViTImageProcessorPil(size=SQUARE).save_pretrained(folder)
    return folder


def build_clip(folder: Path) -> Path:
    """Like openai/clip-vit-base-patch32, with the tokenizer of the toybox."""
    tokenizer = CLIPTokenizer.from_pretrained(TOYBOX / "pipeline" / "tokenizer")
    text_config = {
        **TRANSFORMER,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 77,
        "projection_dim": HIDDEN_SIZE,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision_config = {**VISION, "projection_dim": HIDDEN_SIZE}
    config = CLIPConfig(text_config=text_config, vision_config=vision_config, projection_dim=HIDDEN_SIZE)
    save_model(folder, CLIPModel, config)
    return _save_processor(folder, CLIPProcessor(_clip_image_processor(), tokenizer))


# Segmenters: AutoModelForMaskGeneration


def build_sam(folder: Path) -> Path:
    """Like facebook/sam-vit-base, with its image processor (size 64, padded)."""
    vision_config, prompt_encoder_config, mask_decoder_config = _sam_configs()
    config = SamConfig(
        vision_config=vision_config,
        prompt_encoder_config=prompt_encoder_config,
        mask_decoder_config=mask_decoder_config,
        initializer_range=0.2,
    )
    save_model(folder, SamModel, config)
    square = {"height": SAM_IMAGE_SIZE, "width": SAM_IMAGE_SIZE}
    image_processor = SamImageProcessorPil(
        size={"longest_edge": SAM_IMAGE_SIZE},
        mask_size={"longest_edge": SAM_IMAGE_SIZE // 4},
        pad_size=square,
        mask_pad_size={"height": SAM_IMAGE_SIZE // 4, "width": SAM_IMAGE_SIZE // 4},
    )
    image_processor.save_pretrained(folder)
    return folder


def build_sam_hq(folder: Path) -> Path:
    """Like syscv-community/sam-hq-vit-base."""
    vision_config, prompt_encoder_config, mask_decoder_config = _sam_configs()
    config = SamHQConfig(
        vision_config=vision_config,
        prompt_encoder_config=prompt_encoder_config,
        mask_decoder_config={**mask_decoder_config, "vit_dim": HIDDEN_SIZE},
        initializer_range=0.1,
    )
    return save_model(folder, SamHQModel, config)


def build_sam2(folder: Path) -> Path:
    """Like facebook/sam2-hiera-tiny."""
    return save_model(folder, Sam2Model, Sam2Config(**_sam2_configs()))


def build_sam2_video(folder: Path) -> Path:
    """Like facebook/sam2.1-hiera-tiny, whose type is that of the video model."""
    config = Sam2VideoConfig(
        **_sam2_configs(),
        image_size=SAM_IMAGE_SIZE,
        memory_attention_hidden_size=HIDDEN_SIZE,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=64,
        memory_attention_rope_feat_sizes=[4, 4],
        memory_encoder_hidden_size=HIDDEN_SIZE,
        memory_encoder_output_channels=HIDDEN_SIZE,
        mask_downsampler_embed_dim=HIDDEN_SIZE,
        memory_fuser_embed_dim=HIDDEN_SIZE,
        memory_fuser_intermediate_dim=64,
    )
    return save_model(folder, Sam2VideoModel, config)


def build_sam3_tracker(folder: Path) -> Path:
    """Like the point-and-box part of facebook/sam3."""
    return save_model(folder, Sam3TrackerModel, Sam3TrackerConfig(**_sam3_tracker_configs()))


def build_sam3(folder: Path) -> Path:
    """Like the part of facebook/sam3 that takes words."""
    return _save_clip_tokenizer(save_model(folder, Sam3Model, Sam3Config(**_sam3_configs())))


def build_sam3_lite_text(folder: Path) -> Path:
    """Like yonigozlan/sam3-litetext-s0, whose text encoder is smaller."""
    configs = _sam3_configs(text_config={**_CLIP_TEXT, "use_repmixer_blocks": False})
    return _save_clip_tokenizer(save_model(folder, Sam3LiteTextModel, Sam3LiteTextConfig(**configs)))


def build_sam3_video(folder: Path) -> Path:
    """Like facebook/sam3, whose type is that of the video model: one part takes words, another clicks."""
    tracker = Sam3TrackerVideoConfig(
        **_sam3_tracker_configs(),
        image_size=SAM_IMAGE_SIZE,
        memory_attention_hidden_size=HIDDEN_SIZE,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=64,
        memory_attention_rope_feat_sizes=[8, 8],
        memory_encoder_hidden_size=HIDDEN_SIZE,
        memory_encoder_output_channels=HIDDEN_SIZE,
        mask_downsampler_embed_dim=HIDDEN_SIZE,
        memory_fuser_embed_dim=HIDDEN_SIZE,
        memory_fuser_intermediate_dim=64,
    )
    config = Sam3VideoConfig(detector_config=_sam3_configs(), tracker_config=tracker.to_dict())
    save_model(folder, Sam3VideoModel, config)
    weights = folder / "model.safetensors"  # transformers saves the prefix twice
    tensors = {key.replace("tracker_model.tracker_model", "tracker_model"): t for key, t in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    return _save_clip_tokenizer(folder)


def _save_clip_tokenizer(folder: Path) -> Path:
    CLIPTokenizer.from_pretrained(TOYBOX / "pipeline" / "tokenizer").save_pretrained(folder)
    return folder


def _sam3_vision_config() -> dict[str, Any]:
    backbone_config = {
        "model_type": "sam3_vit_model",
        **VISION,
        "initializer_range": 0.1,
        "image_size": SAM_IMAGE_SIZE,
        "pretrain_image_size": SAM_IMAGE_SIZE,
        "window_size": 2,
        "global_attn_indexes": [1],
    }
    return {
        "model_type": "sam3_vision_model",
        "backbone_config": backbone_config,
        "fpn_hidden_size": HIDDEN_SIZE,
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        "initializer_range": 0.1,
    }


def _sam3_tracker_configs() -> dict[str, Any]:
    return {
        "vision_config": _sam3_vision_config(),
        "prompt_encoder_config": {"hidden_size": HIDDEN_SIZE, "image_size": SAM_IMAGE_SIZE, "patch_size": 8},
        "mask_decoder_config": _mask_decoder_config(),
        "initializer_range": 0.1,
    }


def _sam3_configs(text_config: dict[str, Any] | None = None) -> dict[str, Any]:
    layers = {"hidden_size": HIDDEN_SIZE, "num_attention_heads": 2, "initializer_range": 0.2}
    detr = {**layers, "num_layers": 1, "intermediate_size": 64}
    return {
        "vision_config": _sam3_vision_config(),
        "text_config": text_config or {"model_type": "clip_text_model", **_CLIP_TEXT},
        "geometry_encoder_config": detr,
        "detr_encoder_config": detr,
        "detr_decoder_config": {**detr, "num_queries": 5},
        "mask_decoder_config": {**layers, "num_upsampling_stages": 2},
        "initializer_range": 0.2,
    }


# A refiner


def build_language_model(folder: Path) -> Path:
    """Like HuggingFaceTB/SmolLM2-135M-Instruct: AutoModelForCausalLM and AutoTokenizer with a chat template."""
    tokenizer = chat_tokenizer(GPT2Tokenizer, [])
    save_model(folder, LlamaForCausalLM, _llama_config(tokenizer), tokenizer)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


_CLIP_TEXT = {
    **TRANSFORMER,
    "vocab_size": 49408,
    "projection_dim": HIDDEN_SIZE,
    "max_position_embeddings": 32,
}
CAPTIONERS: dict[str, Callable[[Path], Path]] = {
    "blip": build_blip,
    "git": build_git,
    "blip2": build_blip2,
    "florence2": build_florence2,
    "idefics3": build_idefics3,
    "llava": build_llava,
}
SEGMENTERS: dict[str, Callable[[Path], Path]] = {
    "sam": build_sam,
    "sam_hq": build_sam_hq,
    "sam2": build_sam2,
    "sam2_video": build_sam2_video,
    "sam3_tracker": build_sam3_tracker,
    "sam3_video": build_sam3_video,
}
WORD_SEGMENTERS: dict[str, Callable[[Path], Path]] = {
    "sam3": build_sam3,
    "sam3_lite_text": build_sam3_lite_text,
    "sam3_video": build_sam3_video,
}


def save_model(
    folder: Path, model_class: type[PreTrainedModel], config: Any, tokenizer: PreTrainedTokenizerBase | None = None
) -> Path:
    """Save a model with random weights; one with a tokenizer says only `WORDS`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEEING_SEED if tokenizer is None else SPEAKING_SEED)
        model = model_class(config).eval()
        for name, parameter in model.named_parameters():
            if name.endswith("presence_head.layer3.bias"):
                nn.init.constant_(parameter, 9.0)  # SAM 3 takes whatever is named to be there
        if tokenizer is not None:
            # BLIP does not tell where its own output embeddings are.
            speaker = getattr(model, "text_decoder", model)
            _teach_words(speaker.get_output_embeddings(), _word_ids(tokenizer))
    model.save_pretrained(folder)
    return folder


def _save_processor(folder: Path, processor: Any) -> Path:
    processor.save_pretrained(folder)
    return folder


def _teach_words(output_embeddings: nn.Linear, word_ids: Sequence[int]) -> None:
    # Everything that is not a word has the logit 0, and the best of fifty words is above it.
    with torch.no_grad():
        output_embeddings.weight.zero_()
        output_embeddings.weight[list(word_ids)] = torch.randn(len(word_ids), output_embeddings.in_features)
        if output_embeddings.bias is not None:
            output_embeddings.bias.zero_()


def _word_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    vocabulary = tokenizer.get_vocab()
    return [vocabulary.get(f"Ġ{word}", vocabulary.get(word)) for word in WORDS]


def _wordpiece_tokenizer() -> BertTokenizer:
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in characters), *WORDS]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    return BertTokenizer(vocab=vocabulary, model_max_length=512)


def _byte_level_tokenizer(
    tokenizer_class: type[PreTrainedTokenizerBase],
    first: Sequence[str],
    special: Sequence[str] = (),
    added: Sequence[str] = (),
    **options: Any,
) -> Any:
    # Any text can be written in bytes; one of `WORDS` after a space ("Ġ") grows into one token, letter by letter.
    letters = sorted(ByteLevel.alphabet())
    merges = [(f"Ġ{word[:end]}", word[end]) for word in WORDS for end in range(len(word))]
    merges = list(dict.fromkeys(merges))
    pieces = [*first, *letters, *(left + right for left, right in merges)]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = tokenizer_class(vocab=vocabulary, merges=merges, model_max_length=512, **options)
    tokenizer.add_tokens(list(special), special_tokens=True)
    tokenizer.add_tokens(list(added))
    return tokenizer


def chat_tokenizer(tokenizer_class: type[PreTrainedTokenizerBase], special: Sequence[str], **options: Any) -> Any:
    """Return a tokenizer of bytes and `WORDS` that knows the marks of `CHAT_TEMPLATE` and these special tokens."""
    first = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    roles = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return _byte_level_tokenizer(tokenizer_class, first, special, unk_token="<|endoftext|>", **roles, **options)


def _clip_image_processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_size=SQUARE)


def _llama_config(tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    return LlamaConfig(
        **TRANSFORMER,
        vocab_size=len(tokenizer),
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )


def _mask_decoder_config() -> dict[str, Any]:
    return {"hidden_size": HIDDEN_SIZE, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": HIDDEN_SIZE}


def _sam_configs() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    vision_config = {
        **TRANSFORMER,
        "output_channels": HIDDEN_SIZE,
        "image_size": SAM_IMAGE_SIZE,
        "patch_size": 8,
        "window_size": 4,
        "global_attn_indexes": [1],
        "num_pos_feats": HIDDEN_SIZE // 2,
        "mlp_dim": 64,
    }
    prompt_encoder_config = {"hidden_size": HIDDEN_SIZE, "image_size": SAM_IMAGE_SIZE, "patch_size": 8}
    return vision_config, prompt_encoder_config, _mask_decoder_config()


def _sam2_configs() -> dict[str, Any]:
    backbone_config = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "image_size": [SAM_IMAGE_SIZE, SAM_IMAGE_SIZE],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 24, 32],  # where it does not grow, the picture would not shrink
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [8, 4, 4, 2],
        "window_positional_embedding_background_size": [4, 4],
        "global_attention_blocks": [3],
        "initializer_range": 0.1,
    }
    vision_config = {
        "model_type": "sam2_vision_model",
        "backbone_config": backbone_config,
        "backbone_channel_list": [32, 24, 16, 8],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": HIDDEN_SIZE,
        "initializer_range": 0.1,
    }
    return {
        "vision_config": vision_config,
        "prompt_encoder_config": {"hidden_size": HIDDEN_SIZE, "image_size": SAM_IMAGE_SIZE, "patch_size": 16},
        "mask_decoder_config": _mask_decoder_config(),
        "initializer_range": 0.1,
    }
