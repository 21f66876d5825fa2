"""What the toybox's judge reads in generated pictures, as metrics for `evaluate`.

They take the place of LPIPS, SIFID, CLIP and DINO, which know photographs and whose weights are gigabytes away.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from captions import CAPTIONER_DETAILS
from torch import Tensor
from train_judge import JUDGE_GROUPS, NONE
from transformers import AutoImageProcessor, ResNetForImageClassification
from world import BACKGROUNDS, DETAILS, EMBLEM_COLORS, EMBLEMS, PLAIN_SHADE, TRIM_COLORS

from diffusers_supreme_init.metrics import (
    FidelityMetric,
    Gaussian,
    Pictures,
    PromptMetric,
    fit_gaussian,
    frechet_distance,
)

TOLD_DETAILS = CAPTIONER_DETAILS
UNTOLD_DETAILS = tuple(name for name in DETAILS if name not in (*CAPTIONER_DETAILS, "background"))
"""What a captioner never says of a toy: shade, trim, emblem and its color, accessory."""

_BATCH_SIZE = 32
_PATCH_STAGE = 1
_ABSENT = {"shade": PLAIN_SHADE, "pattern": "plain", "emblem": NONE, "accessory": NONE}
_EDITS = {
    "trim": re.compile(rf"\b({'|'.join(TRIM_COLORS)}) trim\b"),
    "emblem_color": re.compile(rf"\b({'|'.join(EMBLEM_COLORS)}) (?:{'|'.join(EMBLEMS)})\b"),
    "emblem": re.compile(rf"\b({'|'.join(EMBLEMS)})\b"),
}
_BACKGROUND = {"background": re.compile(rf"\bon an? ({'|'.join(BACKGROUNDS)}) background\b")}


def toybox_metrics(toybox_dir: Path) -> list[FidelityMetric | PromptMetric]:
    """Return all metrics of the toybox; they share its judge."""
    judge = Judge(toybox_dir / "judge")
    return [
        FeatureDistance(judge),
        PatchDistance(judge),
        DetailsKept(judge, "told_kept", "details kept that captions tell", TOLD_DETAILS),
        DetailsKept(judge, "untold_kept", "details kept that captions do not tell", UNTOLD_DETAILS),
        Obeyed(judge, "background_obeyed", "background as asked for", _BACKGROUND),
        Obeyed(judge, "edit_obeyed", "trim and emblem as asked for", _EDITS),
    ]


def chance(details: Mapping[str, str]) -> float:
    """How many of some details a picture of a random toy would show, in [0, 1]."""
    return sum(1 / len(JUDGE_GROUPS[name]) for name in details) / len(details)


class Judge:
    """The toybox's ResNet: features and details of pictures."""

    def __init__(self, model_dir: Path) -> None:
        """Load the model from its folder."""
        self.processor = AutoImageProcessor.from_pretrained(model_dir)
        self.model = ResNetForImageClassification.from_pretrained(model_dir).eval()

    @torch.no_grad()
    def features(self, pictures: Pictures) -> Tensor:
        """Return what the heads read, ``(num_pictures, hidden_size)``."""
        pooled = [self.model.resnet(batch).pooler_output.flatten(1) for batch in self._batches(pictures)]
        return torch.cat(pooled).double()

    @torch.no_grad()
    def patches(self, pictures: Pictures) -> Tensor:
        """Return the positions of the first stage's output, ``(num_pictures, num_positions, num_channels)``."""
        found = []
        for batch in self._batches(pictures):
            states = self.model.resnet(batch, output_hidden_states=True).hidden_states
            found.append(states[_PATCH_STAGE].flatten(2).transpose(1, 2))
        return torch.cat(found).double()

    @torch.no_grad()
    def read(self, pictures: Pictures) -> list[dict[str, str]]:
        """Return what each picture shows, by the names of `DETAILS`; what is not there has no entry."""
        logits = torch.cat([self.model(batch).logits for batch in self._batches(pictures)])
        heads = logits.split([len(values) for values in JUDGE_GROUPS.values()], dim=1)
        best = torch.stack([head.argmax(1) for head in heads], dim=1).tolist()
        return [_shown(dict(zip(JUDGE_GROUPS, row, strict=True))) for row in best]

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
    """Fréchet distance between positions of two pictures in the judge's first stage: SIFID with other features."""

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


class DetailsKept:
    """Share of some details of the reference that the judge finds in a picture, in [0, 1].

    Only details that the reference shows count: an accessory where there is one, a shade that is not plain.
    """

    higher_is_better = True

    def __init__(self, judge: Judge, name: str, label: str, details: Collection[str]) -> None:
        self.judge, self.name, self.label, self.details = judge, name, f"{label} (toybox judge)", details

    def compare(self, pictures: Pictures, references: Pictures) -> Tensor:
        """Return ``(num_pictures,)``, the mean over references; NaN where these show none of the details."""
        ours, theirs = self.judge.read(pictures), self.judge.read(references)
        kept = [[self._share(one, other) for other in theirs] for one in ours]
        return torch.tensor(kept, dtype=torch.float64).nanmean(1)

    def _share(self, picture: Mapping[str, str], reference: Mapping[str, str]) -> float:
        expected = {name: value for name, value in reference.items() if name in self.details}
        if not expected:
            return float("nan")
        return sum(picture.get(name) == value for name, value in expected.items()) / len(expected)


class Obeyed:
    """Share of what a prompt asks for that the judge sees, in [0, 1]; NaN where it asks for nothing."""

    higher_is_better = True

    def __init__(self, judge: Judge, name: str, label: str, asked: Mapping[str, re.Pattern[str]]) -> None:
        self.judge, self.name, self.label, self.asked = judge, name, f"{label} (toybox judge)", asked

    def score(self, pictures: Pictures, texts: Sequence[str]) -> Tensor:
        """Return ``(num_pictures,)``."""
        seen = self.judge.read(pictures)
        return torch.tensor(
            [self._share(one, text) for one, text in zip(seen, texts, strict=True)], dtype=torch.float64
        )

    def _share(self, picture: Mapping[str, str], text: str) -> float:
        # The last match: a prompt's own words come after the description of what it is about.
        asked = {name: found[-1] for name, pattern in self.asked.items() if (found := pattern.findall(text))}
        if not asked:
            return float("nan")
        return sum(picture.get(name) == value for name, value in asked.items()) / len(asked)


def _shown(positions: Mapping[str, int]) -> dict[str, str]:
    details = {name: JUDGE_GROUPS[name][position] for name, position in positions.items()}
    missing = {name for name, absent in _ABSENT.items() if details[name] == absent}
    missing |= {f"{shape}_color" for shape in ("pattern", "emblem") if shape in missing}
    return {name: value for name, value in details.items() if name not in missing}
