"""`Describers`: the models that a configuration names, each loaded on first use."""

import contextlib
from collections.abc import Iterable, Iterator
from functools import cached_property

import torch

from ..config import DescriberConfig
from .captioner import Captioner
from .classifier import Classifier, LabelModel, ZeroShotClassifier
from .local_refiner import LocalRefiner
from .model_loading import explained, load_part
from .refiner import Refiner
from .region import Region, Segments
from .segmenter import Segmenter
from .word_segmenter import WordSegmenter, class_for_words

_KINDS = ("classifier", "captioner", "segmenter", "word_segmenter")
DEFAULT_CLASSIFIER = "google/vit-base-patch16-224"
DEFAULT_ZERO_SHOT_CLASSIFIER = "openai/clip-vit-base-patch32"


class Describers:
    """Classifier, captioner, segmenter and refiner, to be used for any number of pictures.

    No model is loaded, and the Hub is not contacted, before a model is needed.

    Attributes:
        config: Names of the models and their settings.
        refiner: Rewrites captions; None: captions stay as they are.
        device: Device of the models; None: the GPU if there is one.
    """

    def __init__(
        self,
        config: DescriberConfig | None = None,
        *,
        refiner: Refiner | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.config = config or DescriberConfig()
        self.refiner = refiner
        self.device = device

    @property
    def classifier_name(self) -> str:
        """Id or folder of the classifier."""
        default = DEFAULT_ZERO_SHOT_CLASSIFIER if self.config.candidate_labels else DEFAULT_CLASSIFIER
        return self.config.classifier or default

    @cached_property
    def classifier(self) -> LabelModel:
        """The classifier; with candidate labels, one that compares pictures with these labels."""
        if self.config.candidate_labels:
            return ZeroShotClassifier(
                self.classifier_name, self.config.candidate_labels, device=self.device, dtype=self._dtype
            )
        return Classifier(self.classifier_name, device=self.device, dtype=self._dtype)

    @cached_property
    def captioner(self) -> Captioner:
        """The captioner."""
        return Captioner(
            self.config.captioner, prompt=self.config.caption_prompt, device=self.device, dtype=self._dtype
        )

    @cached_property
    def segmenter(self) -> Segmenter:
        """The segmenter."""
        return Segmenter(self.config.segmenter, device=self.device, dtype=self._dtype)

    @cached_property
    def word_segmenter(self) -> WordSegmenter:
        """The segmenter, as one that takes words."""
        return WordSegmenter(self.config.segmenter, device=self.device, dtype=self._dtype)

    def segmenter_of(self, region: Region) -> Segments:
        """Return the segmenter that takes what the region is given by."""
        return self.segmenter if region.words is None else self.word_segmenter

    def check(self, kinds: Iterable[str]) -> None:
        """Check that models are there, by reading their configurations; none is loaded.

        Args:
            kinds: Some of ``"classifier"``, ``"captioner"``, ``"segmenter"`` and ``"word_segmenter"``.

        Raises:
            DescriberError: One does not exist, or the Hub cannot be reached and it is not in the cache; or the
                segmenter takes no words.
        """
        names = {
            "classifier": self.classifier_name,
            "captioner": self.config.captioner,
            "segmenter": self.config.segmenter,
            "word_segmenter": self.config.segmenter,
        }
        from transformers import AutoConfig

        for kind in kinds:
            with explained(names[kind], kind.removeprefix("word_")):
                load_part(AutoConfig, names[kind])
                if kind == "word_segmenter":
                    class_for_words(names[kind])

    def release(self) -> None:
        """Free the memory of all loaded models; each is loaded again on its next use."""
        for name in _KINDS:
            self.__dict__.pop(name, None)
        if isinstance(self.refiner, LocalRefiner):
            self.refiner.release()

    @contextlib.contextmanager
    def set_aside(self) -> Iterator[None]:
        """Keep the loaded models in the CPU's memory meanwhile, so that the accelerator is free for a pipeline."""
        loaded = [self.__dict__[name].model for name in _KINDS if name in self.__dict__]
        homes = [(model, model.device) for model in loaded]
        if isinstance(self.refiner, LocalRefiner):
            self.refiner.release()
        for model, _ in homes:
            model.to("cpu")
        try:
            yield
        finally:
            for model, home in homes:
                model.to(home)

    @property
    def _dtype(self) -> torch.dtype:
        return getattr(torch, self.config.describer_dtype)
