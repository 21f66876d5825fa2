"""The text half of every pipeline class that is not built whole: its own code from the prompt to the embeddings.

A class is given the tiny text encoders, and what else it has in common, of a family that runs whole with the same
text encoders; everything else is None.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler
from diffusers.pipelines.deprecated.blip_diffusion.modeling_ctx_clip import ContextCLIPTextModel
from PIL import Image
from tiny.every_family import FAMILIES
from tiny.families import Family, quiet
from tiny.language_models import qwen3_vl_encoder, text_options
from tiny.language_tokenizers import llama_tokenizer, qwen_tokenizer
from tiny.other_tasks import z_image_controlnet
from tiny.text import clip_text_encoder, clip_tokenizer, seeded
from transformers import (
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
    Qwen3VLModel,
)

from .classes import Reader, module_of, readers_of, text_taking_classes

Parts = Mapping[str, Any]


@dataclass(frozen=True)
class Special:
    """What the text half of one pipeline class needs besides what all need.

    Attributes:
        calls: The methods that encode prompts (the combined pipelines hold pipelines), with arguments that not all of
            them have; a callable makes one from the prompt.
        borrowed: Components that are no text encoders and that the class does not start without.
        parts: Returns components that no family with the same text encoders has.
        state: Attributes that ``__call__`` sets before it encodes.
    """

    calls: Sequence[tuple[str, Parts]] = (("encode_prompt", {}),)
    borrowed: frozenset[str] = frozenset()
    parts: Callable[[], Parts] = dict
    state: Parts = field(default_factory=dict)


@dataclass(frozen=True)
class TextHalf:
    """A pipeline class with real text encoders, and the family that they are borrowed from, if any."""

    pipeline_class: type
    family: Family | None
    special: Special

    @property
    def lender(self) -> str | None:
        """The name of the family whose text encoders these are; None if they were made for this class."""
        are_own = bool(
            self.special.parts().keys() & {reader.encoder_name for reader in readers_of(self.pipeline_class)}
        )
        return None if self.family is None or are_own else self.family.name

    def build(self) -> Any:
        """Return a fresh pipeline, each time with the same weights."""
        borrowed = {"safety_checker", *self.special.borrowed}
        for reader in readers_of(self.pipeline_class):
            borrowed |= {reader.encoder_name, *(slot for slot, _ in reader.tokenizers)}
        lent = self.family.build().components if self.family else {}
        parts = {name: part for name, part in lent.items() if name in borrowed} | self.special.parts()
        parameters = list(inspect.signature(self.pipeline_class.__init__).parameters.values())[1:]
        wanted = [one for one in parameters if one.name in parts or one.default is one.empty]
        pipe = self.pipeline_class(**{one.name: parts.get(one.name) for one in wanted})
        for name, value in self.special.state.items():
            setattr(pipe, name, value)
        return quiet(pipe)

    def encode(self, pipe: Any, prompt: str) -> list[torch.Tensor]:
        """Return every tensor that the pipeline makes of a prompt."""
        usual = {**COMMON, **(self.family.call if self.family else {})}
        made = []
        for path, special in self.special.calls:
            method = functools.reduce(getattr, path.split("."), pipe)
            known = {**usual, **special}
            arguments = {}
            for name, one in inspect.signature(method).parameters.items():
                if name in known:
                    arguments[name] = known[name](prompt) if callable(known[name]) else known[name]
                elif one.default is one.empty and one.kind is not one.VAR_KEYWORD:
                    arguments[name] = None
            with torch.no_grad():
                made += tensors_in(method(**arguments))
        return made


def text_halves() -> list[TextHalf]:
    """Return the text half of every class that has text encoders and is not built whole by a family."""
    whole = {family.pipeline_class for family in FAMILIES}
    return [
        TextHalf(one, lender_of(readers_of(one), module_of(one)), SPECIAL.get(one.__name__, Special()))
        for one in text_taking_classes()
        if one not in whole and readers_of(one)
    ]


def lender_of(readers: Sequence[Reader], module: str) -> Family | None:
    """Return a family that has these text encoders and tokenizers; no others if possible, and of the same module."""

    def lacks(family: Family) -> bool:
        own = {(one.encoder_name, one.encoder): set(one.tokenizers) for one in readers_of(family.pipeline_class)}
        return any(set(one.tokenizers) - own.get((one.encoder_name, one.encoder), set()) for one in readers)

    def strangeness(family: Family) -> tuple[bool, bool]:
        return readers_of(family.pipeline_class) != readers, module_of(family.pipeline_class) != module

    return min((family for family in FAMILIES if not lacks(family)), key=strangeness, default=None)


def tensors_in(made: Any) -> list[torch.Tensor]:
    if isinstance(made, torch.Tensor):
        return [made]
    parts = made.values() if isinstance(made, Mapping) else made if isinstance(made, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


def are_equal(made: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    """Whether two lists of tensors are equal to the last bit."""
    same_shapes = [one.shape for one in made] == [one.shape for one in expected]
    return same_shapes and all(torch.equal(one, other) for one, other in zip(made, expected, strict=True))


# What single classes need


def _itself(prompt: str) -> str:
    return prompt


def _family(name: str) -> Parts:
    return next(family for family in FAMILIES if family.name == name).build().components


def _combined(*decoder_names: str) -> Parts:
    """Return the parts of two Kandinskys as their combined pipelines call them."""
    prior = {f"prior_{name}": part for name, part in _family("kandinsky_prior").items()}
    return prior | {name: part for name, part in _family("kandinsky").items() if name in decoder_names}


def _blip() -> Parts:
    """Return BLIP-Diffusion's CLIP, which reads what its Q-Former saw in a picture between the tokens.

    The Q-Former downloads a tokenizer when it is built; asked of it here is only how many vectors it makes.
    """
    q_former = torch.nn.Identity()
    q_former.config = PreTrainedConfig(num_query_tokens=2)
    encoder = seeded(lambda: ContextCLIPTextModel(clip_text_encoder().config))
    return {"text_encoder": encoder, "tokenizer": clip_tokenizer(), "qformer": q_former}


def _llava() -> Parts:
    """Return HunyuanVideo's text encoders where the first one also sees a picture."""
    tokenizer = llama_tokenizer()
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        text_config={"model_type": "llama", **text_options(tokenizer, 16, 4)},
        vision_config={"model_type": "clip_vision_model", **vision, "image_size": 24 * 4, "patch_size": 4},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    return {
        "text_encoder": seeded(lambda: LlavaForConditionalGeneration(config)),
        "tokenizer": tokenizer,
        "text_encoder_2": clip_text_encoder(),
        "tokenizer_2": clip_tokenizer(),
        "image_processor": CLIPImageProcessorPil(size={"shortest_edge": 96}, crop_size=96),
    }


def _qwen3_vl(part: str | None = None) -> Parts:
    """Return a Qwen3-VL as deep as Ideogram 4 looks into, or its language model alone."""
    encoder = qwen3_vl_encoder(layers=2 if part else 36, model_class=Qwen3VLModel)
    return {"text_encoder": getattr(encoder, part) if part else encoder, "tokenizer": qwen_tokenizer()}


PICTURE = Image.new("RGB", (16, 16), "red")
COMMON: Mapping[str, Any] = {
    "prompt": _itself,
    "device": "cpu",
    "dtype": torch.float32,
    "clean_caption": False,
    "do_classifier_free_guidance": False,
    "max_sequence_length": 128,
    **dict.fromkeys(("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt"), 1),
}
PRIVATE = Special(calls=[("_encode_prompt", {})])
EDITED = Special(calls=[("encode_prompt", {"image": PICTURE})])
TWICE = Special(calls=[("encode_prompt", {"text_encoder_index": index}) for index in (0, 1)])
LEDITS = Special(
    calls=[("encode_prompt", {"editing_prompt": _itself, "enable_edit_guidance": True})],
    parts=lambda: {"scheduler": DPMSolverMultistepScheduler()},
    state={"batch_size": 1},
)
VISUAL_CLOZE = {"layout_prompt": "a grid", "task_prompt": _itself, "content_prompt": "a mug"}
COMBINED = Special(
    calls=[("prior_pipe._encode_prompt", {}), ("decoder_pipe._encode_prompt", {})],
    parts=lambda: _combined("text_encoder", "tokenizer", "movq"),
)
COMBINED_22 = Special(calls=[("prior_pipe._encode_prompt", {})], parts=lambda: _combined("movq"))
Z_IMAGE_CONTROL = Special(borrowed=frozenset({"transformer"}), parts=lambda: {"controlnet": z_image_controlnet()})
LONG = {"max_sequence_length": 512}  # their templates are longer than that of the family with their text encoders
SPECIAL: Mapping[str, Special] = {
    "BlipDiffusionControlNetPipeline": Special(
        calls=[("encode_prompt", {"query_embeds": torch.ones(1, 2, 32)})], parts=_blip
    ),
    "BriaFiboEditPipeline": Special(borrowed=frozenset({"transformer"})),
    "Cosmos2_5_TransferPipeline": Special(borrowed=frozenset({"vae"})),
    "DreamLiteMobilePipeline": Special(
        calls=[("encode_prompt", {"mode": "generate", "prompts": lambda prompt: [prompt]})]
    ),
    "Flux2KleinKVPipeline": Special(borrowed=frozenset({"transformer"})),
    "HunyuanDiTControlNetPipeline": TWICE,
    "HunyuanDiTPAGPipeline": TWICE,
    "HunyuanVideo15ImageToVideoPipeline": Special(borrowed=frozenset({"vae"})),
    "HunyuanVideoImageToVideoPipeline": Special(calls=EDITED.calls, parts=_llava),
    "Ideogram4Pipeline": Special(calls=[("encode_prompt", {"grid_h": 2, "grid_w": 2})], parts=_qwen3_vl),
    "JoyImageEditPlusPipeline": Special(calls=[("encode_prompt_multiple_images", {})]),
    "KandinskyCombinedPipeline": COMBINED,
    "KandinskyImg2ImgCombinedPipeline": COMBINED,
    "KandinskyInpaintCombinedPipeline": COMBINED,
    "KandinskyImg2ImgPipeline": Special(calls=PRIVATE.calls, borrowed=frozenset({"movq"})),
    "KandinskyInpaintPipeline": Special(calls=PRIVATE.calls, borrowed=frozenset({"movq"})),
    "KandinskyV22CombinedPipeline": COMBINED_22,
    "KandinskyV22Img2ImgCombinedPipeline": COMBINED_22,
    "KandinskyV22InpaintCombinedPipeline": COMBINED_22,
    "KandinskyV22PriorEmb2EmbPipeline": PRIVATE,
    "Kandinsky5I2IPipeline": Special(calls=[("encode_prompt", {**LONG, "image": [PICTURE]})]),
    "Kandinsky5I2VPipeline": Special(calls=[("encode_prompt", LONG)]),
    "Kandinsky5T2VPipeline": Special(calls=[("encode_prompt", LONG)]),
    "Kandinsky6TI2VAPipeline": Special(calls=[("encode_prompt", LONG)]),
    "LEditsPPPipelineStableDiffusion": LEDITS,
    "LEditsPPPipelineStableDiffusionXL": LEDITS,
    "LongCatAudioDiTPipeline": Special(borrowed=frozenset({"vae", "transformer"})),
    "LongCatImageEditPipeline": EDITED,
    "PRXPixelPipeline": Special(parts=lambda: _qwen3_vl("language_model")),
    "QwenImageEditInpaintPipeline": EDITED,
    "SanaWMLTX2Refiner": Special(calls=PRIVATE.calls, borrowed=frozenset({"connectors"})),
    "StableDiffusionInstructPix2PixPipeline": PRIVATE,
    "VisualClozePipeline": Special(calls=[("generation_pipe.encode_prompt", VISUAL_CLOZE)]),
    "VisualClozeGenerationPipeline": Special(calls=[("encode_prompt", VISUAL_CLOZE)]),
    "ZImageControlNetPipeline": Z_IMAGE_CONTROL,
    "ZImageControlNetInpaintPipeline": Z_IMAGE_CONTROL,
}
