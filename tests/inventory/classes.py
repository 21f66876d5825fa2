"""Every pipeline class of the installed diffusers that takes a prompt, and what reads the prompt in each."""

import functools
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import diffusers.modular_pipelines
import diffusers.pipelines
from diffusers import DiffusionPipeline, ModularPipeline

PROMPTS = ("prompt", "editing_prompt", "task_prompt")
"""Names of the prompt in ``__call__``: everywhere, in LEDITS++, and in VisualCloze."""

PROCESSOR_SLOTS = ("processor", "text_processor")
"""Components that hold another tokenizer for ``text_encoder``; pixels pass through them too."""

_ENCODERS = {
    "Gemma2PreTrainedModel": "Gemma2Model",  # Sana and Lumina 2 call it as a model without a head
    "GemmaPreTrainedModel": "GemmaModel",  # Lumina does so with Gemma 1
    "T5EncoderModel|VitsModel": "T5EncoderModel",  # AudioLDM 2; VITS is for its speech checkpoints
    "T5GemmaEncoder": "T5GemmaEncoderModel",  # PRX; the one holds the other and adds nothing
    "T5EncoderModel|UMT5EncoderModel": "UMT5EncoderModel",  # SkyReels-V2's docstring: google/umt5-xxl
    "Gemma3ForConditionalGeneration|Gemma4UnifiedForConditionalGeneration": "Gemma3ForConditionalGeneration",  # LTX-2
    "Qwen2VLForConditionalGeneration|BertModel": "Qwen2VLForConditionalGeneration",  # EasyAnimate 5.1's docstring
}
"""Annotations that are no class of their own or a choice: the class that checkpoints hold."""

_ENCODERS_OF_PIPELINES = {
    "AceStep": "Qwen3Model",  # docstring: "e.g., Qwen3-Embedding-0.6B"
    "Echo": "Gemma3ForConditionalGeneration",  # modular; made from LTX-2
    "Ideogram4": "Qwen3VLModel",  # its modular twin says so; docstring: QWEN3_VL_ACTIVATION_LAYERS
    "LDMTextToImage": "LDMBertModel",  # docstring; a class of diffusers
    "LTX2": "Gemma3ForConditionalGeneration",  # modular (LTX 2.5 also); as in LTX-2's other pipelines
    "PRXPixel": "Qwen3VLTextModel",  # docstring: "the Qwen3-VL text backbone (the vision tower is discarded)"
    "ZImage": "Qwen3Model",  # its modular twin says so
}
"""Pipelines that annotate their text encoder as ``PreTrainedModel`` only, by how the name of the class begins."""

_TOKENIZERS = {
    "CLIP": "CLIPTokenizer",
    "Gemma": "GemmaTokenizer",
    "Glm": "TokenizersBackend",  # GLM-4's tokenizer has no class of its own
    "Mistral": "TokenizersBackend",  # nor has Mistral Small 3's
    "Qwen": "Qwen2Tokenizer",
    "SmolLM3": "TokenizersBackend",  # nor has SmolLM3's
    "T5Gemma": "GemmaTokenizer",
    "T5Encoder": "T5Tokenizer",  # AudioLDM 2 without VITS
    "UMT5": "T5Tokenizer",  # google/umt5-xxl
    "LDMBert": "BertTokenizer",  # docstring of latent diffusion
}
"""What ``AutoTokenizer`` and its like load for a text encoder, by how the name of its class begins."""

_UNSPECIFIC = ("AutoTokenizer", "PreTrainedTokenizerBase", "TokenizersBackend", "PythonBackend", "Any", "|")
_PROCESSORS = {
    "ProcessorMixin": "Gemma3Processor",  # LTX-2, for its prompt enhancer
    "Qwen2_5_VLProcessor": "Qwen2VLProcessor",  # Kandinsky 6 differs in how it packs pixels only
}
_INNER_TOKENIZERS = {
    "Gemma3Processor": "GemmaTokenizer",
    "GlmImageProcessor": "TokenizersBackend",  # nor has GLM-Image's tokenizer a class of its own
    "PixtralProcessor": "TokenizersBackend",
}
_PLANNER = "vision_language_encoder"  # of GLM-Image; it reads through `processor`


@dataclass(frozen=True, order=True)
class Reader:
    """One text encoder of a pipeline class and where its ids come from.

    Attributes:
        encoder_name: Component, e.g. ``"text_encoder_2"``.
        encoder: Class, e.g. ``"T5EncoderModel"``.
        tokenizers: ``(component, class)`` of every tokenizer; ``"Qwen2VLProcessor(Qwen2Tokenizer)"`` is one inside a
            processor.
    """

    encoder_name: str
    encoder: str
    tokenizers: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        """E.g. ``T5EncoderModel ← T5Tokenizer``."""
        return f"{self.encoder} ← {' and '.join(kind for _, kind in self.tokenizers)}"


@functools.cache
def text_taking_classes() -> tuple[type, ...]:
    """Return the pipeline classes that take a prompt, by module and name.

    Left out: the folder ``diffusers.pipelines.deprecated``, and the ONNX pipelines, which hold no PyTorch modules.
    """
    classes = [one for one in _classes(diffusers.pipelines, DiffusionPipeline) if prompt_argument(one)]
    return tuple(one for one in classes if ".deprecated." not in one.__module__ and "onnx" not in one.__module__)


@functools.cache
def modular_classes() -> tuple[type, ...]:
    """Return the modular pipeline classes, by module and name."""
    return tuple(one for one in _classes(diffusers.modular_pipelines, ModularPipeline) if one is not ModularPipeline)


def prompt_argument(pipeline_class: type) -> str | None:
    """Return what ``__call__`` calls its prompt, or None if it takes none."""
    parameters = inspect.signature(pipeline_class.__call__).parameters
    return next((name for name in PROMPTS if name in parameters), None)


def short_name(pipeline_class: type) -> str:
    """Return the name of a class without ``Pipeline``, which all have."""
    return pipeline_class.__name__.replace("ModularPipeline", "").replace("Pipeline", "")


def module_of(pipeline_class: type) -> str:
    """Return the module of diffusers that a class is in: ``"flux"``."""
    return pipeline_class.__module__.split(".")[2]


@functools.cache
def readers_of(pipeline_class: type) -> tuple[Reader, ...]:
    """Return the text encoders of a pipeline class with their tokenizers, as ``__init__`` annotates them."""
    parameters = inspect.signature(pipeline_class.__init__).parameters
    return readers(
        {name: annotated_name(one.annotation) for name, one in parameters.items()}, short_name(pipeline_class)
    )


@functools.cache
def readers_of_modular(pipeline_class: type) -> tuple[Reader, ...]:
    """Return the same for a modular pipeline class, from the components that its blocks ask for."""
    specs = pipeline_class()._component_specs
    return readers({name: annotated_name(spec.type_hint) for name, spec in specs.items()}, short_name(pipeline_class))


def readers(annotations: dict[str, str], pipeline_name: str) -> tuple[Reader, ...]:
    """Return the text encoders among components, given by their annotated classes."""
    found = []
    for name, annotation in annotations.items():
        if _is_encoder(name):
            encoder = _encoder(annotation, pipeline_name)
            own = name.replace("text_encoder", "tokenizer").replace("bert", "tokenizer").replace(_PLANNER, "processor")
            slots = [own, *(PROCESSOR_SLOTS if name == "text_encoder" else ())]
            kinds = ((slot, _tokenizer(annotations[slot], encoder)) for slot in slots if slot in annotations)
            found.append(Reader(name, encoder, tuple((slot, kind) for slot, kind in kinds if kind)))
    return tuple(sorted(found))


def _encoder(annotation: str, pipeline_name: str) -> str:
    if annotation == "PreTrainedModel":
        named = [kind for start, kind in _ENCODERS_OF_PIPELINES.items() if pipeline_name.startswith(start)]
        return named[0] if named else annotation
    return _ENCODERS.get(annotation, annotation)


def _is_encoder(name: str) -> bool:
    return ("text_encoder" in name and not name.endswith("_layers")) or name in ("bert", _PLANNER)


def _tokenizer(annotation: str, encoder: str) -> str | None:
    if "Processor" in annotation:
        kind = _PROCESSORS.get(annotation, annotation)
        if kind == "AutoProcessor":  # Flux 2 has Mistral Small 3's, modular Flux 3 that of Qwen3-VL
            kind = "PixtralProcessor" if encoder.startswith("Mistral") else "Qwen3VLProcessor"
        if kind == "GlmImageProcessor" and not encoder.startswith("GlmImage"):
            return None  # it serves GLM-Image's language model, not its text encoder
        return f"{kind}({_INNER_TOKENIZERS.get(kind, 'Qwen2Tokenizer')})"
    if not any(part in annotation for part in _UNSPECIFIC):
        return annotation
    known = [start for start in _TOKENIZERS if encoder.startswith(start)]
    return _TOKENIZERS[max(known, key=len)] if known else annotation


def annotated_name(annotation: Any) -> str:
    """Return the name of an annotated class, of a choice ``A|B`` without None; ``Fast`` classes are aliases."""
    if isinstance(annotation, str):
        parts = [part.strip() for part in annotation.split("|")]
    else:
        parts = [getattr(part, "__name__", str(part)) for part in typing.get_args(annotation) or (annotation,)]
    parts = [part.removesuffix("Fast") for part in parts if part not in ("NoneType", "None")]
    return "|".join(dict.fromkeys(parts))


def _classes(package: Any, base: type) -> Iterator[type]:
    found = {}
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        try:
            module = importlib.import_module(info.name)
        except (ImportError, RuntimeError):  # helpers for files, which want OpenCV, PyAV or note-seq
            continue
        for one in vars(module).values():
            if inspect.isclass(one) and issubclass(one, base) and one.__module__ == info.name:
                found[one.__module__, one.__name__] = one
    return iter(found[key] for key in sorted(found))
