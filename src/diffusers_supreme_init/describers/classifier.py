"""Pictures -> class labels, by an image classifier or by comparing pictures with given labels."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from ..errors import DescriberError
from .description import Description
from .loading import answering, explained, place, split_revision

_BATCH_SIZE = 16
_PROMPT = "a photo of {}"


class Classifies(Protocol):
    """What names the class of some pictures of one thing."""

    def describe(self, images: Sequence[Image.Image], *, num_labels: int = 5) -> list[Description]:
        """Return the most probable labels, best first, by the mean probability over all pictures."""
        ...


class Classifier:
    """Any `AutoModelForImageClassification`: ViT, BEiT, ConvNeXt, ...

    Raises:
        DescriberError: The model cannot be loaded, or is no classifier.
    """

    def __init__(
        self, model: str, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        """Load a model.

        Args:
            model: Hub id (``"user/name"`` or ``"user/name@revision"``) or folder.
            device: Where it runs; None: the GPU if there is one.
            dtype: Precision of the weights.
        """
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        self.name = model
        name, revision = split_revision(model)
        with explained(model, "classifier"):
            self.processor: Any = AutoImageProcessor.from_pretrained(name, revision=revision, trust_remote_code=False)
            self.model: Any = place(
                AutoModelForImageClassification.from_pretrained(
                    name, revision=revision, dtype=dtype, trust_remote_code=False
                ),
                device,
            )

    def describe(self, images: Sequence[Image.Image], *, num_labels: int = 5) -> list[Description]:
        """Return the most probable labels, best first.

        Args:
            images: RGB pictures of one thing; their probabilities are averaged.
            num_labels: How many; at most as many as the model has.
        """
        id2label = self.model.config.id2label
        with answering(self.name, "classifier"):
            probabilities = self._probabilities(images)
        return _best(probabilities, [id2label[index] for index in range(len(id2label))], num_labels)

    @torch.no_grad()
    def _probabilities(self, images: Sequence[Image.Image]) -> Tensor:
        total = torch.zeros(len(self.model.config.id2label))
        for start in range(0, len(images), _BATCH_SIZE):
            batch = list(images[start : start + _BATCH_SIZE])
            inputs = self.processor(images=batch, return_tensors="pt").to(self.model.device, self.model.dtype)
            logits = self.model(**inputs).logits.float()
            several = self.model.config.problem_type == "multi_label_classification"
            total += (logits.sigmoid() if several else logits.softmax(-1)).sum(0).cpu()
        return total / len(images)


class ZeroShotClassifier:
    """A CLIP-like model that chooses among labels of your own, for what ImageNet has no class for.

    Raises:
        DescriberError: The model cannot be loaded or compares no pictures with texts, or there are no labels.
    """

    def __init__(
        self,
        model: str,
        candidate_labels: Sequence[str],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Load a model.

        Args:
            model: Hub id or folder of a CLIP, SigLIP, ... model.
            candidate_labels: What the pictures may show, e.g. ``["a mug", "a teapot"]``; at least two.
            device: Where it runs; None: the GPU if there is one.
            dtype: Precision of the weights.
        """
        from transformers import AutoModelForZeroShotImageClassification, AutoProcessor

        self.candidate_labels = list(dict.fromkeys(label.strip() for label in candidate_labels))
        if len(self.candidate_labels) < 2 or "" in self.candidate_labels:
            raise DescriberError(
                f"candidate_labels: expected at least two different labels, got {list(candidate_labels)}"
            )
        self.name = model
        name, revision = split_revision(model)
        with explained(model, "zero-shot classifier"):
            self.processor: Any = AutoProcessor.from_pretrained(name, revision=revision, trust_remote_code=False)
            self.model: Any = place(
                AutoModelForZeroShotImageClassification.from_pretrained(
                    name, revision=revision, dtype=dtype, trust_remote_code=False
                ),
                device,
            )

    def describe(self, images: Sequence[Image.Image], *, num_labels: int = 5) -> list[Description]:
        """Return the most probable of the candidate labels, best first; see `Classifier.describe`."""
        with answering(self.name, "zero-shot classifier"):
            probabilities = self._probabilities(images)
        return _best(probabilities, self.candidate_labels, num_labels)

    @torch.no_grad()
    def _probabilities(self, images: Sequence[Image.Image]) -> Tensor:
        prompts = [_PROMPT.format(label) for label in self.candidate_labels]
        total = torch.zeros(len(prompts))
        for start in range(0, len(images), _BATCH_SIZE):
            batch = list(images[start : start + _BATCH_SIZE])
            inputs = self.processor(
                images=batch, text=prompts, return_tensors="pt", padding="max_length", truncation=True
            ).to(self.model.device, self.model.dtype)
            total += self.model(**inputs).logits_per_image.float().softmax(-1).sum(0).cpu()
        return total / len(images)


def _best(probabilities: Tensor, labels: Sequence[str], num_labels: int) -> list[Description]:
    values, indices = probabilities.topk(min(num_labels, len(labels)))
    return [Description(labels[index], value) for value, index in zip(values.tolist(), indices.tolist(), strict=True)]
