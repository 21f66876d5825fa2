"""Pictures -> class labels, by an image classifier or by comparing pictures with given labels."""

import abc
from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor

from ..errors import DescriberLoadError
from .description import Description
from .model_loading import answering, explained, load_part, place

_BATCH_SIZE = 16
_PROMPT = "a photo of {}"


class LabelModel(abc.ABC):
    """A model that names the class of pictures that show the same thing.

    Attributes:
        name: Hub id or folder.
        labels: All possible answers.
    """

    name: str
    labels: Sequence[str]

    def describe(
        self, images: Sequence[Image.Image], *, num_labels: int = 5, name_of: Callable[[str], str] = str.strip
    ) -> list[Description]:
        """Return the most probable labels, best first.

        Args:
            images: RGB pictures of one thing; their probabilities are averaged.
            num_labels: Number of labels; at most all are returned.
            name_of: Labels with the same name count as one, for which the most probable of them stands: ImageNet has
                "sunglasses" twice. Their probabilities are added.

        Raises:
            DescriberError: The model fails on a picture.
        """
        (descriptions,) = self.describe_each([images], num_labels=num_labels, name_of=name_of)
        return descriptions

    def describe_each(
        self,
        images: Sequence[Sequence[Image.Image]],
        *,
        num_labels: int = 5,
        name_of: Callable[[str], str] = str.strip,
    ) -> list[list[Description]]:
        """Return what `describe` does for each of several things, whose pictures go through the model together.

        That is faster on a GPU; probabilities differ by rounding from those of a thing alone.

        Args:
            images: RGB pictures of each thing.
            num_labels: Number of labels of each.
            name_of: As in `describe`.

        Raises:
            DescriberError: The model fails on a picture.
        """
        every = [image for of_one in images for image in of_one]
        batches = [every[start : start + _BATCH_SIZE] for start in range(0, len(every), _BATCH_SIZE)]
        with answering(self.name, "classifier"), torch.no_grad():
            probabilities = torch.cat([self._probabilities(batch).float().cpu() for batch in batches])
        return [
            self._best(of_one.mean(0), num_labels, name_of)
            for of_one in probabilities.split([len(of_one) for of_one in images])
        ]

    def _best(self, probabilities: Tensor, num_labels: int, name_of: Callable[[str], str]) -> list[Description]:
        groups: dict[str, list[int]] = {}
        for index in probabilities.argsort(descending=True, stable=True).tolist():
            groups.setdefault(name_of(self.labels[index]), []).append(index)
        answers = [
            Description(self.labels[group[0]], min(probabilities[group].sum().item(), 1.0))
            for group in groups.values()
        ]
        return sorted(answers, key=lambda answer: -answer.score)[:num_labels]

    @abc.abstractmethod
    def _probabilities(self, images: list[Image.Image]) -> Tensor:
        """Return the probability of each label for each picture, ``(num_images, num_labels)``."""


class Classifier(LabelModel):
    """Any `AutoModelForImageClassification`: ViT, BEiT, ConvNeXt, ...

    Raises:
        DescriberError: The model cannot be loaded, or is not a classifier.
    """

    def __init__(
        self, model: str, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        """Load a model.

        Args:
            model: Hub id (``"user/name"`` or ``"user/name@revision"``) or folder.
            device: Device of the model; None: the GPU if there is one.
            dtype: Precision of the weights.
        """
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        self.name = model
        with explained(model, "classifier"):
            self.processor = load_part(AutoImageProcessor, model)
            self.model = place(load_part(AutoModelForImageClassification, model, dtype=dtype), device)
        id2label = self.model.config.id2label
        self.labels = [id2label[index] for index in range(len(id2label))]

    def _probabilities(self, images: list[Image.Image]) -> Tensor:
        inputs = self.processor(images=images, return_tensors="pt").to(self.model.device, self.model.dtype)
        logits = self.model(**inputs).logits.float()
        several = self.model.config.problem_type == "multi_label_classification"
        return logits.sigmoid() if several else logits.softmax(-1)


class ZeroShotClassifier(LabelModel):
    """A CLIP-like model that chooses among your own labels, for objects without an ImageNet class.

    Raises:
        DescriberError: The model cannot be loaded or does not compare pictures with texts, or there are fewer than two
            different labels or an empty one.
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
            candidate_labels: Possible contents of the pictures, e.g. ``["a mug", "a teapot"]``; at least two.
            device: Device of the model; None: the GPU if there is one.
            dtype: Precision of the weights.
        """
        from transformers import AutoModelForZeroShotImageClassification, AutoProcessor

        self.name = model
        self.labels = list(dict.fromkeys(label.strip() for label in candidate_labels))
        if len(self.labels) < 2 or "" in self.labels:
            raise DescriberLoadError(
                f"candidate_labels: expected at least two different labels, got {list(candidate_labels)}"
            )
        with explained(model, "zero-shot classifier"):
            self.processor = load_part(AutoProcessor, model)
            self.model = place(load_part(AutoModelForZeroShotImageClassification, model, dtype=dtype), device)

    def _probabilities(self, images: list[Image.Image]) -> Tensor:
        texts = [_PROMPT.replace("{}", label) for label in self.labels]
        # Padded to full length, since SigLIP was trained that way.
        inputs = self.processor(
            images=images, text=texts, return_tensors="pt", padding="max_length", truncation=True
        ).to(self.model.device, self.model.dtype)
        return self.model(**inputs).logits_per_image.float().softmax(-1)
