"""What the toybox's own models say of generated pictures: its judge (a ViT) and its captioner (BLIP).

They take the place of LPIPS, SIFID, CLIP and DINO, which know photographs and whose weights are gigabytes away.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from check_describers import read_caption
from torch import Tensor
from transformers import AutoImageProcessor, AutoProcessor, BlipForConditionalGeneration, ViTForImageClassification

from diffusers_supreme_init.metrics import (
    FidelityMetric,
    Gaussian,
    Pictures,
    PromptMetric,
    fit_gaussian,
    frechet_distance,
)

LOOKS = ("class", "color", "pattern")
"""What makes a toy the same toy, as far as words go."""

_BATCH_SIZE = 32
_PATCH_LAYER = 1
_BACKGROUND_ASKED = re.compile(r"\bon an? (\w+) background\b")
_BACKGROUND_LABEL = "background: "


def toybox_metrics(toybox_dir: Path) -> list[FidelityMetric | PromptMetric]:
    """Return all metrics of the toybox; they share its judge and its captioner."""
    judge = Judge(toybox_dir / "judge")
    return [
        FeatureDistance(judge),
        PatchDistance(judge),
        IdentityKept(toybox_dir / "captioner"),
        BackgroundObeyed(judge),
    ]


class Judge:
    """The toybox's ViT: features and looks of pictures."""

    def __init__(self, model_dir: Path) -> None:
        """Load the model from its folder."""
        self.processor = AutoImageProcessor.from_pretrained(model_dir)
        self.model = ViTForImageClassification.from_pretrained(model_dir).eval()
        labels = self.model.config.id2label
        self.backgrounds = {
            index: label.removeprefix(_BACKGROUND_LABEL)
            for index, label in labels.items()
            if label.startswith(_BACKGROUND_LABEL)
        }

    @torch.no_grad()
    def features(self, pictures: Pictures) -> Tensor:
        """Return what the classifier reads, ``(num_pictures, hidden_size)``."""
        found = []
        for inputs in self._batches(pictures):
            found.append(self.model.vit(inputs).last_hidden_state[:, 0])
        return torch.cat(found).double()

    @torch.no_grad()
    def patches(self, pictures: Pictures) -> Tensor:
        """Return the patches after the first layer, ``(num_pictures, num_patches, hidden_size)``."""
        found = []
        for inputs in self._batches(pictures):
            states = self.model.vit(inputs, output_hidden_states=True).hidden_states
            found.append(states[_PATCH_LAYER][:, 1:])
        return torch.cat(found).double()

    @torch.no_grad()
    def read_backgrounds(self, pictures: Pictures) -> list[str]:
        """Return the background of each picture."""
        indices = list(self.backgrounds)
        best = torch.cat([self.model(inputs).logits[:, indices].argmax(1) for inputs in self._batches(pictures)])
        return [self.backgrounds[indices[position]] for position in best.tolist()]

    def _batches(self, pictures: Pictures) -> list[Tensor]:
        pixels = self.processor(list(pictures), return_tensors="pt")["pixel_values"]
        return list(pixels.split(_BATCH_SIZE))


class FeatureDistance:
    """One minus the cosine of two pictures' features in the judge, in [0, 2]: 0 for the same look."""

    name = "judge_distance"
    label = "feature distance in the toybox judge"
    higher_is_better = False

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def compare(self, pictures: Pictures, references: Pictures) -> Tensor:
        """Return ``(num_pictures,)``, the mean over references."""
        ours, theirs = (
            torch.nn.functional.normalize(self.judge.features(one), dim=1) for one in (pictures, references)
        )
        return (1 - ours @ theirs.T).mean(1)


class PatchDistance:
    """Fréchet distance between the patches of two pictures in the judge's first layer: SIFID with other features."""

    name = "judge_patch_distance"
    label = "Fréchet distance of patches in the toybox judge"
    higher_is_better = False

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def compare(self, pictures: Pictures, references: Pictures) -> Tensor:
        """Return ``(num_pictures,)``, at least 0, the mean over references."""
        ours, theirs = (fit_gaussian(self.judge.patches(one)) for one in (pictures, references))
        per_picture = Gaussian(ours.mean[:, None], ours.covariance[:, None])
        return frechet_distance(per_picture, theirs).mean(1)


class IdentityKept:
    """Share of class, body color and pattern that the captioner tells of a picture as it does of the reference."""

    name = "identity_kept"
    label = "class, color and pattern kept (toybox captioner)"
    higher_is_better = True

    def __init__(self, captioner_dir: Path) -> None:
        self.processor = AutoProcessor.from_pretrained(captioner_dir)
        self.model = BlipForConditionalGeneration.from_pretrained(captioner_dir).eval()

    def compare(self, pictures: Pictures, references: Pictures) -> Tensor:
        """Return ``(num_pictures,)`` in [0, 1], the mean over references."""
        ours, theirs = ([read_caption(text) for text in self.captions(one)] for one in (pictures, references))
        kept = [[sum(one[look] == other[look] for look in LOOKS) / len(LOOKS) for other in theirs] for one in ours]
        return torch.tensor(kept, dtype=torch.float64).mean(1)

    @torch.no_grad()
    def captions(self, pictures: Pictures) -> list[str]:
        """Return the likeliest caption of each picture."""
        texts: list[str] = []
        for start in range(0, len(pictures), _BATCH_SIZE):
            inputs = self.processor(images=list(pictures[start : start + _BATCH_SIZE]), return_tensors="pt")
            output = self.model.generate(**inputs, max_new_tokens=20, do_sample=False)
            texts += self.processor.batch_decode(output, skip_special_tokens=True)
        return texts


class BackgroundObeyed:
    """Whether the judge sees the background that a prompt asks for, 1 or 0; NaN where it asks for none."""

    name = "background_obeyed"
    label = "background as asked for (toybox judge)"
    higher_is_better = True

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def score(self, pictures: Pictures, texts: Sequence[str]) -> Tensor:
        """Return ``(num_pictures,)``."""
        asked = [_BACKGROUND_ASKED.search(text) for text in texts]
        seen = self.judge.read_backgrounds(pictures)
        return torch.tensor(
            [
                float("nan") if match is None else float(match[1] == one)
                for match, one in zip(asked, seen, strict=True)
            ],
            dtype=torch.float64,
        )
