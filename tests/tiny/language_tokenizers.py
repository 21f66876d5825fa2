"""Tokenizers and processors of language models: real classes and layouts, vocabularies trained here.

Every function returns something fresh; equal arguments give equal tokenizers. As in the real ones, a vocabulary has
added tokens that are not special. Every word of `WORDS` is one token, so the templates of the pipelines have as many
tokens here as in the real ones, and what they cut off by a number is what they mean to cut off.
"""

import functools
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import sentencepiece
from diffusers.pipelines.kolors import ChatGLMTokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    GemmaTokenizer,
    LlamaTokenizer,
    LlavaProcessor,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Qwen2Tokenizer,
    TokenizersBackend,
)

# The root of the package exports the classes that need torchvision; these are their twins.
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

WORDS = (
    *("a", "an", "the", "and", "or", "of", "with", "on", "in", "at", "to", "for", "from", "this", "that", "is"),
    *("are", "red", "blue", "green", "small", "large", "wooden", "shiny", "old", "low", "quality", "bad"),
    *("blurry", "highly", "mug", "mugs", "dog", "cat", "beach", "park", "table", "night", "hat", "photo"),
    *("drawing", "sculpture", "oil", "Describe", "describe", "image", "video", "by", "detailing", "color"),
    *("shape", "size", "texture", "quantity", "text", "spatial", "relationships", "objects", "background"),
    *("key", "features", "input", "then", "explain", "how", "user", "instruction", "should", "alter", "modify"),
    *("Generate", "generate", "new", "meets", "requirements", "while", "maintaining"),
    *("consistency", "original", "where", "appropriate", "system", "assistant", "You", "you", "following"),
    *("aspects", "main", "content", "theme", "location", "movements", "actions", "events", "behaviors"),
    *("environment", "light", "style", "atmosphere", "camera", "angles", "transitions", "used", "prompt"),
    *("engineer", "As", "captioning", "expert", "descriptive", "based", "suitable", "model", "designed"),
    *("superior", "images", "degree", "alignment", "textual", "prompts", "Prompt", "Start", "physical"),
    *("temporal", "changes", "beginning"),
)
PUNCTUATION = ",.:;!?'\"()[]{}<>/\\|_-+=*&%#@~0123456789"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
GEMMA_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] }}\n"
    "{{ message['content'] if message['content'] is string else message['content'][-1]['text'] }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% set name = {'system': 'SYSTEM_PROMPT', 'user': 'INST'} %}"
    "[{{ name[message['role']] }}]"
    "{% for part in message['content'] %}{{ '[IMG]' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "[/{{ name[message['role']] }}]{% endfor %}"
)
Vocabulary = tuple[dict[str, int], list[tuple[str, str]]]


# Tokenizers


def qwen_tokenizer() -> Qwen2Tokenizer:
    """Like that of Qwen2.5-VL, Qwen3 and Qwen3-VL: byte-level, no token at the beginning or the end."""
    vocabulary, merges = _byte_level_vocabulary()
    tokenizer = Qwen2Tokenizer(vocab=dict(vocabulary), merges=list(merges), model_max_length=4096)
    vision = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
    _add_tokens(tokenizer, special=("<|im_start|>", "<|im_end|>", *vision))
    _add_tokens(tokenizer, plain=("<tool_call>", "</tool_call>", "<think>", "</think>"))
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def gemma_tokenizer() -> GemmaTokenizer:
    """Like that of Gemma: "▁" for spaces, bytes for unknown letters, padded on the left, `<bos>` first."""
    special = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>")
    vocabulary, merges = _spaces_vocabulary(special)
    tokenizer = GemmaTokenizer(vocab=dict(vocabulary), merges=list(merges), model_max_length=2048, add_bos_token=True)
    _add_tokens(tokenizer, special=special[-2:])
    _add_tokens(tokenizer, plain=("\n\n", "\n\n\n", "\t\t", "▁▁", "<table>", "</table>", "[toxicity=0]"))
    tokenizer.chat_template = GEMMA_CHAT_TEMPLATE
    return tokenizer


def llama_tokenizer() -> LlamaTokenizer:
    """Like that of Llama 2: "▁" for spaces and before the text, bytes for unknown letters, `<s>` first."""
    vocabulary, merges = _spaces_vocabulary(("<unk>", "<s>", "</s>"))
    tokenizer = LlamaTokenizer(vocab=dict(vocabulary), merges=list(merges), model_max_length=2048, add_bos_token=True)
    _add_tokens(tokenizer, special=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<pad>"))
    tokenizer.pad_token = "<pad>"
    tokenizer.padding_side = "right"
    return tokenizer


def llama3_tokenizer() -> TokenizersBackend:
    """Like that of Llama 3.1, which is of no class of its own: byte-level, `<|begin_of_text|>` first, no padding."""
    special = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    return byte_level_tokenizer(special, first=special[:1], bos_token=special[0], eos_token=special[-1])


def mistral_tokenizer() -> TokenizersBackend:
    """Like that of Mistral Small 3: byte-level with its special tokens in front, `<s>` first, padded on the left."""
    special = ("<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
    roles = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    special = (*special, "[IMG]", "[IMG_BREAK]", "[IMG_END]")
    return byte_level_tokenizer(special, first=("<s>",), in_front=True, padding_side="left", **roles)


def glm_tokenizer() -> TokenizersBackend:
    """Like that of GLM-4: byte-level, `[gMASK]<sop>` first, padded on the left."""
    special = ("<|endoftext|>", "[MASK]", "[gMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>")
    options = {"eos_token": special[0], "pad_token": special[0], "padding_side": "left"}
    return byte_level_tokenizer(special, first=("[gMASK]", "<sop>"), plain=("<think>", "</think>"), **options)


def smollm3_tokenizer() -> TokenizersBackend:
    """Like that of SmolLM3: the one of Llama 3 with ChatML on top; padded with its end, on the left."""
    special = ("<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>")
    options = {"eos_token": special[1], "pad_token": special[-1], "padding_side": "left"}
    return byte_level_tokenizer(special, plain=("<think>", "</think>", "<tool_call>"), **options)


@functools.cache
def _chatglm_folder() -> tempfile.TemporaryDirectory[str]:
    """Train a model file as Kolors' tokenizer reads it, which it also wants to copy when it is saved."""
    folder = tempfile.TemporaryDirectory()
    with (Path(folder.name) / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([" ".join(WORDS)] * 20),
            model_writer=file,
            vocab_size=400,
            model_type="bpe",
            hard_vocab_limit=False,
            minloglevel=2,
        )
    return folder


def chatglm_tokenizer() -> ChatGLMTokenizer:
    """Like that of Kolors, which is written in Python: `[gMASK]sop` first, padded on the left."""
    return ChatGLMTokenizer(str(Path(_chatglm_folder().name) / "tokenizer.model"))


# Processors


@contextmanager
def without_video() -> Iterator[None]:
    """Build, save and load processors without their part for video, which needs torchvision."""
    parts_of = ProcessorMixin.get_attributes.__func__

    def parts_but_video(processor_class: type[ProcessorMixin]) -> list[str]:
        return [part for part in parts_of(processor_class) if part != "video_processor"]

    with mock.patch.object(ProcessorMixin, "get_attributes", classmethod(parts_but_video)):
        yield


def qwen_processor(processor_class: type[ProcessorMixin]) -> Any:
    """Return a processor of Qwen2-VL, Qwen2.5-VL or Qwen3-VL, whose tokenizer is its own, without video."""
    image_processor = Qwen2VLImageProcessorPil(patch_size=4, min_pixels=8 * 8, max_pixels=64 * 64)
    with without_video():
        processor = processor_class(image_processor, qwen_tokenizer(), None, chat_template=CHAT_TEMPLATE)
    processor.video_processor = None
    return processor


def mistral_processor() -> LlavaProcessor:
    """Return a processor with the tokenizer and the template of Mistral Small 3.

    `PixtralProcessor` cannot be imported without torchvision. With text alone the two do the same.
    """
    image_processor = PixtralImageProcessorPil(patch_size=4, size={"longest_edge": 32})
    options = {"image_token": "[IMG]", "chat_template": MISTRAL_CHAT_TEMPLATE}
    return LlavaProcessor(image_processor, mistral_tokenizer(), patch_size=4, **options)


def _add_tokens(
    tokenizer: PreTrainedTokenizerBase, special: tuple[str, ...] = (), plain: tuple[str, ...] = ()
) -> None:
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special], special_tokens=True)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])


def byte_level_tokenizer(
    special: tuple[str, ...],
    *,
    first: tuple[str, ...] = (),
    plain: tuple[str, ...] = (),
    in_front: bool = False,
    **options: Any,
) -> TokenizersBackend:
    vocabulary, merges = _byte_level_vocabulary(special if in_front else ())
    backend = Tokenizer(models.BPE(vocab=dict(vocabulary), merges=list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    ids = [(token, backend.token_to_id(token)) for token in first]
    byte_level = processors.ByteLevel(trim_offsets=False)
    template = processors.TemplateProcessing(single=[*first, "$A"], special_tokens=ids)
    backend.post_processor = processors.Sequence([byte_level, template])
    tokenizer = TokenizersBackend(tokenizer_object=backend, model_max_length=4096, **options)
    _add_tokens(tokenizer, plain=plain)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@functools.cache
def _byte_level_vocabulary(special: tuple[str, ...] = ()) -> Vocabulary:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _train(backend, special, sorted(pre_tokenizers.ByteLevel.alphabet()))


@functools.cache
def _spaces_vocabulary(special: tuple[str, ...]) -> Vocabulary:
    backend = Tokenizer(models.BPE(byte_fallback=True))
    backend.normalizer = normalizers.Replace("\n", " ")
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    return _train(backend, (*special, *(f"<0x{byte:02X}>" for byte in range(256))), [])


def _train(backend: Tokenizer, special: tuple[str, ...], alphabet: list[str]) -> Vocabulary:
    # Large enough for every word to become one token: training ends when there is nothing left to merge.
    options = {"vocab_size": 10_000, "min_frequency": 2, "show_progress": False, "initial_alphabet": alphabet}
    trainer = trainers.BpeTrainer(special_tokens=list(special), **options)
    # Each word at the beginning of a text and after a space; each mark as well, and glued to a word.
    lines = [*WORDS, *(f"a {word}," for word in WORDS), *PUNCTUATION, " ".join(PUNCTUATION)]
    backend.train_from_iterator(lines * 2, trainer)
    model = json.loads(backend.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]
