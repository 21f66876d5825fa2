"""Tokenizers trained on a toy corpus, in the id layout of the real ones, and tiny random text encoders for them.

Training happens once per process; every call returns a fresh tokenizer, because loading a concept changes it.
"""

import functools
import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    ByT5Tokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
    XLMRobertaTokenizer,
)

CORPUS = (
    "a photo of a red mug on a wooden table , next to some mugs and a smaller green cup",
    "a dog in the park at night , running after two large cats and three small birds",
    "an oil painting of the beach in the morning , with blue water and white boats",
    "a close picture of one strange sculpture made from old glass , stone and painted metal",
    "the rendition of a nice tower in the snow , highly detailed , soft light , trending",
    "blurry , low quality , deformed , bad colors , text and a watermark",
    "0 1 2 3 4 5 6 7 8 9 10 4k < > | _ # $ % ( ) [ ] { } * @ & + = / ' \" ! ? ; : . -",
)
SPARE_ROWS = 28
"""Rows a T5 matrix has beyond its tokenizer, as the real ones do (32128 against 32100)."""

ModuleT = TypeVar("ModuleT", bound=torch.nn.Module)


def seeded(build: Callable[[], ModuleT], seed: int = 0, gain: float = 1.0) -> ModuleT:
    """Build a module in evaluation mode, with equal weights for equal seeds.

    Layers that start at zero (gates, the last layer of many denoisers) get random values, and `gain` makes every
    matrix larger: an untrained model would otherwise ignore its prompt, or nearly so.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build()
        with torch.no_grad():
            for weight in module.parameters():
                if weight.is_floating_point() and not weight.any():
                    weight.normal_(std=0.1)
                if weight.ndim > 1:
                    weight.mul_(gain)
    return module.eval()


# CLIP


@functools.cache
def _clip_vocabulary() -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    # Ids as in the real one: letters, letters that end a word, merges in order, and BOS and EOS as the two highest.
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.normalizer = normalizers.Lowercase()
    words = pre_tokenizers.Split(Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), behavior="removed", invert=True)
    trained.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    trainer = trainers.BpeTrainer(vocab_size=700, end_of_word_suffix="</w>", show_progress=False)
    merges = train(trained, trainer)["merges"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    return tuple(dict.fromkeys([*tokens, "<|startoftext|>", "<|endoftext|>"])), tuple(map(tuple, merges))


def clip_tokenizer(pad: str = "<|endoftext|>") -> CLIPTokenizer:
    """Return a fresh CLIP tokenizer; the second ones of SDXL and SD3 pad with ``"!"``."""
    tokens, merges = _clip_vocabulary()
    return CLIPTokenizer(vocab=_ids(tokens), merges=list(merges), model_max_length=77, pad_token=pad)


def clip_text_encoder(
    width: int = 32, projection: bool = False, eos: int | None = 2, seed: int = 0
) -> CLIPTextModel | CLIPTextModelWithProjection:
    """Return a CLIP text encoder; ``eos=2`` is the wrong id that most checkpoints carry, None the tokenizer's."""
    size = len(_clip_vocabulary()[0])
    config = CLIPTextConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=4,
        bos_token_id=0 if eos == 2 else size - 2,
        pad_token_id=1,
        eos_token_id=size - 1 if eos is None else eos,
    )
    model = CLIPTextModelWithProjection if projection else CLIPTextModel
    return seeded(lambda: model(config), seed)


# T5 and its relatives


def _sentence_pieces(without: str = "") -> list[tuple[str, float]]:
    # Whole words, a few endings, and letters as the last resort; sentencepiece's own training wants a larger corpus.
    words = dict.fromkeys(word for line in CORPUS for word in line.split())
    endings = ("s", "es", "ed", "er", "ing", "ly")
    letters = [letter for letter in map(chr, range(33, 127)) if letter not in without]
    pieces = {"▁": -3.0} | dict.fromkeys(letters, -9.0) | dict.fromkeys(endings, -7.0)
    whole = [f"▁{word}" for word in words if not set(word) & set(without)]
    return list((pieces | dict.fromkeys(whole, -6.0)).items())


def t5_tokenizer() -> T5Tokenizer:
    """Return a fresh T5 tokenizer: pad, EOS and unknown first, sentinels last, no ``<`` or braces."""
    first = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    sentinels = [(f"<extra_id_{number}>", 0.0) for number in reversed(range(100))]
    return T5Tokenizer(vocab=[*first, *_sentence_pieces("<{}\\^`~"), *sentinels], extra_ids=100, model_max_length=512)


def t5_encoder(width: int = 32, seed: int = 0) -> T5EncoderModel:
    """Return a T5 encoder whose matrix has more rows than the tokenizer has tokens."""
    return seeded(lambda: T5EncoderModel(_t5_config(T5Config, len(t5_tokenizer()), width)), seed)


def umt5_encoder(width: int = 32, seed: int = 0) -> UMT5EncoderModel:
    """Return a UMT5 encoder, for the same tokenizer."""
    return seeded(lambda: UMT5EncoderModel(_t5_config(UMT5Config, len(t5_tokenizer()), width)), seed)


def byt5_tokenizer() -> ByT5Tokenizer:
    """Return a fresh ByT5 tokenizer: letters are bytes, and the class is written in Python."""
    return ByT5Tokenizer(model_max_length=512)


def byt5_encoder(width: int = 32, seed: int = 0) -> T5EncoderModel:
    """Return a T5 encoder over bytes."""
    return seeded(lambda: T5EncoderModel(_t5_config(T5Config, len(byt5_tokenizer()), width)), seed)


def _t5_config(kind: type[T5Config] | type[UMT5Config], num_tokens: int, width: int) -> T5Config | UMT5Config:
    return kind(
        vocab_size=num_tokens + SPARE_ROWS,
        d_model=width,
        d_ff=2 * width,
        d_kv=8,
        num_heads=4,
        num_layers=2,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
    )


# BERT, for HunyuanDiT and latent diffusion


@functools.cache
def _bert_vocabulary() -> tuple[str, ...]:
    first = ["[PAD]", "[unused1]", "[unused2]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer = normalizers.BertNormalizer()
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=first, show_progress=False)
    vocabulary: dict[str, int] = train(trained, trainer)["vocab"]
    return tuple(sorted(vocabulary, key=vocabulary.__getitem__))


def bert_tokenizer(length: int = 77) -> BertTokenizer:
    """Return a fresh BERT tokenizer that reads `length` tokens (77 in HunyuanDiT)."""
    return BertTokenizer(vocab=_ids(_bert_vocabulary()), model_max_length=length)


def bert_encoder(width: int = 32, seed: int = 0) -> BertModel:
    """Return a BERT encoder."""
    config = BertConfig(
        vocab_size=len(_bert_vocabulary()),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    return seeded(lambda: BertModel(config), seed)


def ldm_bert(width: int = 32, seed: int = 0) -> LDMBertModel:
    """Return the BERT of the first latent diffusion, a class of diffusers."""
    config = LDMBertConfig(
        vocab_size=len(_bert_vocabulary()),
        d_model=width,
        head_dim=8,
        encoder_layers=2,
        encoder_ffn_dim=2 * width,
        encoder_attention_heads=4,
    )
    return seeded(lambda: LDMBertModel(config), seed)


# Kandinsky 2.1's multilingual CLIP, an XLM-RoBERTa


def xlm_roberta_tokenizer() -> XLMRobertaTokenizer:
    """Return a fresh XLM-RoBERTa tokenizer: BOS, pad, EOS and unknown first, the mask last."""
    first = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    return XLMRobertaTokenizer(vocab=[*first, *_sentence_pieces(), ("<mask>", 0.0)], model_max_length=512)


def multilingual_clip(width: int = 32, image_width: int = 24, seed: int = 0) -> MultilingualCLIP:
    """Return a multilingual CLIP: tokens of `width`, pooled to `image_width`."""
    config = MCLIPConfig(
        transformerDimSize=width,
        imageDimSize=image_width,
        vocab_size=len(xlm_roberta_tokenizer()),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=514,
        pad_token_id=1,
    )
    return seeded(lambda: MultilingualCLIP(config), seed)


def train(tokenizer: Tokenizer, trainer: trainers.Trainer) -> dict[str, Any]:
    """Train a tokenizer on the corpus and return its model: ``"vocab"`` and, of pairs, ``"merges"``."""
    tokenizer.train_from_iterator(CORPUS * 20, trainer)
    return json.loads(tokenizer.to_str())["model"]


def _ids(tokens: Iterable[str]) -> dict[str, int]:
    return {token: token_id for token_id, token in enumerate(tokens)}
