"""Picture -> captions, by any image-text-to-text model of transformers."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from ..errors import DescriberError
from .description import Description
from .masks import PixelBox
from .model_loading import answering, explained, load_part, load_picture_processor, place

CHAT_PROMPT = (
    "Name the main object in this image with one short noun phrase, with its colors and materials, in at most ten "
    "English words. Answer with the phrase only."
)
"""The question for chat models if no `prompt` is given."""

_MIN_BEAMS = 3
# These models continue the prompt, so it is part of the caption; for others it is a question or a task.
_CONTINUES_PROMPT = frozenset({"blip", "git"})
_LOCATION = re.compile(r"<loc_\d+>")


class Captioner:
    """Any `AutoModelForImageTextToText`: BLIP, BLIP-2, GIT, Florence-2, and chat models such as Qwen3-VL.

    Raises:
        DescriberError: The model cannot be loaded, or is not a captioner.
    """

    def __init__(
        self,
        model: str,
        *,
        prompt: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Load a model.

        Args:
            model: Hub id (``"user/name"`` or ``"user/name@revision"``) or folder.
            prompt: Beginning of the caption for BLIP and GIT, a task such as ``"<DETAILED_CAPTION>"`` for Florence-2,
                a question for the others; None: no prompt for BLIP and GIT, ``"<CAPTION>"`` for Florence-2 (or
                ``"<REGION_TO_DESCRIPTION>"`` for a box), `CHAT_PROMPT` for chat models.
            device: Device of the model; None: the GPU if there is one.
            dtype: Precision of the weights.
        """
        from transformers import AutoModelForImageTextToText

        with explained(model, "captioner"):
            # The processor is small, and already fails for models of other kinds, before the weights are loaded.
            self.processor = load_picture_processor(model)
            self.model = place(load_part(AutoModelForImageTextToText, model, dtype=dtype), device)
        self.name = model
        self.prompt = prompt
        if self.model.config.model_type == "florence2":
            self._inputs = self._florence_inputs
        elif getattr(self.processor, "chat_template", None):
            self._inputs = self._chat_inputs
        else:
            self._inputs = self._plain_inputs

    @property
    def describes_boxes(self) -> bool:
        """Whether the model can describe a box within the whole picture: Florence-2 can, unless `prompt` is given."""
        return self.model.config.model_type == "florence2" and self.prompt is None

    def describe(
        self, image: Image.Image, *, num_captions: int = 1, max_new_tokens: int = 40, box: PixelBox | None = None
    ) -> list[Description]:
        """Return the best captions of a beam search, best first, without repetitions.

        Args:
            image: RGB.
            num_captions: Number of captions; fewer are returned if beams differ only in white space.
            max_new_tokens: Longest caption, in tokens of the captioner.
            box: The part to describe, ``(left, top, right, bottom)`` in pixels; only if `describes_boxes`.

        Raises:
            DescriberError: The model does not take boxes, or fails on the picture.
        """
        (descriptions,) = self.describe_each(
            [image], num_captions=num_captions, max_new_tokens=max_new_tokens, boxes=[box]
        )
        return descriptions

    @torch.no_grad()
    def describe_each(
        self,
        images: Sequence[Image.Image],
        *,
        num_captions: int = 1,
        max_new_tokens: int = 40,
        boxes: Sequence[PixelBox | None] = (),
    ) -> list[list[Description]]:
        """Return what `describe` does for each of several pictures, which go through the model together.

        That is faster on a GPU; scores differ by rounding from those of a picture alone, and so may close captions.

        Args:
            images: RGB.
            num_captions: Number of captions of each.
            max_new_tokens: Longest caption, in tokens of the captioner.
            boxes: The part of each to describe, or None; empty: the whole pictures.

        Raises:
            DescriberError: As `describe`.
        """
        if any(box is not None for box in boxes) and not self.describes_boxes:
            raise DescriberError(f"captioner {self.name!r}: expected no box, got one; crop the picture instead")
        with answering(self.name, "captioner"):
            inputs = self._inputs(images, boxes or [None] * len(images)).to(self.model.device, self.model.dtype)
            output = self.model.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=max(_MIN_BEAMS, num_captions),
                num_return_sequences=num_captions,
                return_dict_in_generate=True,
                output_scores=True,
            )
            # `beam_indices` is cropped to the generated length; `scores` is longer when all beams end early.
            texts = self._decode(output.sequences, output.beam_indices.shape[1])
        scores = output.sequences_scores.float().tolist()
        found = [Description(text, score) for text, score in zip(texts, scores, strict=True)]
        return [
            _without_repetitions(found[first : first + num_captions]) for first in range(0, len(found), num_captions)
        ]

    def _plain_inputs(self, images: Sequence[Image.Image], boxes: Sequence[PixelBox | None]) -> Any:
        text = {"text": [self.prompt] * len(images)} if self.prompt else {}
        inputs = self.processor(images=list(images), return_tensors="pt", **text)
        if self.model.config.model_type == "git" and self.prompt:
            inputs.pop("token_type_ids", None)  # GIT's tokenizer returns them, its model refuses them
            for name in ("input_ids", "attention_mask"):
                inputs[name] = inputs[name][:, :-1]  # without the end token: the text is to be continued
        return inputs

    def _chat_inputs(self, images: Sequence[Image.Image], boxes: Sequence[PixelBox | None]) -> Any:
        question = {"type": "text", "text": self.prompt or CHAT_PROMPT}
        chats = [[{"role": "user", "content": [{"type": "image", "image": image}, question]}] for image in images]
        # A model that thinks aloud would use up `max_new_tokens` for its thoughts. The option goes only to templates
        # that know it: the processor would take it for one of its own.
        options = {"enable_thinking": False} if "enable_thinking" in str(self.processor.chat_template) else {}
        # Pictures of other sizes are other numbers of tokens; answers begin where the longest question ends.
        padding: dict[str, Any] = {"padding": True, "padding_side": "left"} if len(chats) > 1 else {}
        return self.processor.apply_chat_template(
            chats,
            **options,
            **padding,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )

    def _florence_inputs(self, images: Sequence[Image.Image], boxes: Sequence[PixelBox | None]) -> Any:
        tasks = [self._florence_task(image, box) for image, box in zip(images, boxes, strict=True)]
        return self.processor(images=list(images), text=tasks, return_tensors="pt", padding=len(tasks) > 1)

    def _florence_task(self, image: Image.Image, box: PixelBox | None) -> str:
        if box is None:
            return self.prompt or "<CAPTION>"
        corners = torch.tensor([box], dtype=torch.float32)
        bins = self.processor.post_processor.quantize(corners, image.size)[0].tolist()
        return "".join((self.prompt or "<REGION_TO_DESCRIPTION>", *(f"<loc_{value}>" for value in bins)))

    def _decode(self, sequences: torch.Tensor, num_new: int) -> list[str]:
        """Return the text of the last `num_new` tokens; most models repeat the prompt before them."""
        new = sequences[:, sequences.shape[1] - num_new :]
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        texts = tokenizer.batch_decode(new, skip_special_tokens=True)
        beginning = f"{self.prompt} " if self.prompt and self.model.config.model_type in _CONTINUES_PROMPT else ""
        return [" ".join((beginning + _LOCATION.sub("", text)).split()) for text in texts]


def _without_repetitions(descriptions: Sequence[Description]) -> list[Description]:
    """Return descriptions with different texts; the first of equal ones stays."""
    found: dict[str, Description] = {}
    for one in descriptions:
        found.setdefault(one.text, one)
    return list(found.values())
