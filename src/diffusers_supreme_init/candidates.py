"""Selected pictures -> candidate descriptions, each with what was taken out of it on the way."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from .describers import Describers, Description, Wording, clean_caption, clean_label, is_latin, refine
from .errors import DescriberError
from .files import hub_id
from .placeholders import cut_to_tokens
from .selection import SelectedPicture


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Words that a concept could start from.

    Attributes:
        text: The words.
        source: ``"class"``, ``"caption"``, ``"refined caption"`` or ``"text"`` (the user's own).
        raw: What the describer said; for a refined caption, what the refiner said.
        score: The describer's own, see `Description`; None for the user's text and for refined captions.
        removed: Boilerplate that was taken out of `raw`.
        num_cut: Tokens that were cut because they do not fit.
        losses: Fixed-noise losses of the untouched model, one per noise; empty if there was nothing to choose.
    """

    text: str
    source: str
    raw: str
    score: float | None = None
    removed: tuple[str, ...] = ()
    num_cut: int = 0
    losses: tuple[float, ...] = ()

    @property
    def loss(self) -> float | None:
        """Mean of `losses`."""
        return sum(self.losses) / len(self.losses) if self.losses else None


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """What the describers of one concept said.

    Attributes:
        usable: Different texts, in the order in which they were found.
        notes: What was refused or failed, and why, one line each.
    """

    usable: tuple[Candidate, ...]
    notes: tuple[str, ...] = ()


@dataclass
class _Collector:
    """Gathers the candidates of one concept."""

    describers: Describers
    limit: int | None
    tokenizer: PreTrainedTokenizerBase | None
    usable: dict[str, Candidate] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, wording: Wording, source: str, score: float | None = None) -> None:
        """Keep a text, or note why not."""
        if not wording.text:
            self.notes.append(
                f"{source}: expected words that describe the picture, got only boilerplate ({_short(wording.raw)})"
                if wording.raw.strip()
                else f"{source}: expected words, got nothing"
            )
            return
        if not is_latin(wording.text):
            self.notes.append(
                f"{source}: expected English, which the text encoder knows, got another script "
                f"({_short(wording.raw)}); ask for English with caption_prompt, or pass a refiner"
            )
            return
        text, num_cut = wording.text, 0
        if self.limit is not None and self.tokenizer is not None:
            text, num_cut = cut_to_tokens(text, self.limit, self.tokenizer)
        candidate = Candidate(
            text=text, source=source, raw=wording.raw, score=score, removed=wording.removed, num_cut=num_cut
        )
        self.usable.setdefault(text, candidate)

    def add_labels(self, descriptions: Sequence[Description]) -> None:
        for description in descriptions:
            try:
                wording = clean_label(description.text, synonym=self.describers.config.label_synonym)
            except DescriberError as error:
                self.notes.append(str(error))
            else:
                self.add(wording, "class", description.score)

    def add_captions(self, descriptions: Sequence[Description], *, keep_raw: bool) -> None:
        for description in descriptions:
            raw = self._clean(description.text)
            refiner = self.describers.refiner
            if refiner is None or not raw.text:
                self.add(raw, "caption", description.score)
                continue
            refinement = refine(refiner, raw.text)
            if refinement.failure is not None:
                self.notes.append(f"refiner: {refinement.failure}; kept the caption")
            refined = self._clean(refinement.text)
            is_refined = refinement.failure is None and self._is_better_wording(refined)
            if keep_raw or not is_refined:
                self.add(raw, "caption", description.score)
            if is_refined:
                self.add(refined, "refined caption")

    def _is_better_wording(self, refined: Wording) -> bool:
        too_long = (
            self.limit is not None
            and self.tokenizer is not None
            and cut_to_tokens(refined.text, self.limit, self.tokenizer)[1]
        )
        if refined.text and is_latin(refined.text) and not too_long:
            return True
        self.notes.append(
            f"refiner: expected a short English phrase, got {_short(refined.raw)}; kept the caption"
            if not too_long
            else f"refiner: expected at most {self.limit} tokens, got {too_long} more; kept the caption"
        )
        return False

    def _clean(self, text: str) -> Wording:
        return clean_caption(text, boilerplate=self.describers.config.clean_captions)


def find_candidates(
    method: str,
    pictures: Sequence[SelectedPicture],
    describers: Describers,
    *,
    own: Sequence[str] = (),
    limit: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Candidates:
    """Ask the describers.

    Args:
        method: ``"class"``: the most probable label over all pictures. ``"caption"``: the best caption of each
            picture. ``"auto"``: several labels, several captions of each picture, their refinements, and `own`.
        pictures: Of one concept.
        describers: Which models, and how they are used.
        own: The user's texts.
        limit: Tokens that fit; longer texts are cut between words.
        tokenizer: Counts them.

    Raises:
        DescriberError: A model cannot be loaded, or none of them said anything usable.
    """
    config, automatic = describers.config, method == "auto"
    limits = [value for value in (limit, config.max_initializer_tokens) if value is not None]
    collector = _Collector(describers, min(limits, default=None), tokenizer)
    for text in own:
        collector.add(Wording(text.strip(), text), "text")
    num_labels = config.num_labels if automatic else 1
    if method in ("class", "auto") and num_labels:
        crops = [picture.crop for picture in pictures]
        collector.add_labels(describers.classifier.describe(crops, num_labels=num_labels))
    num_captions = config.num_captions if automatic else 1
    if method in ("caption", "auto") and num_captions:
        for picture in pictures:
            collector.add_captions(_captions(picture, describers, num_captions), keep_raw=automatic)
    if not collector.usable:
        reasons = "; ".join(dict.fromkeys(collector.notes)) or "nothing was asked (num_labels=0, num_captions=0)"
        raise DescriberError(f"initializer={method!r}: no usable words were found: {reasons}. Pass the words yourself")
    return Candidates(usable=tuple(collector.usable.values()), notes=tuple(dict.fromkeys(collector.notes)))


def _captions(picture: SelectedPicture, describers: Describers, num_captions: int) -> list[Description]:
    captioner, max_new_tokens = describers.captioner, describers.config.max_caption_tokens
    # A captioner that can be asked about a part sees it in its surroundings, unless these are to be removed.
    whole = captioner.describes_boxes and describers.config.region_background == "keep"
    image, box = (picture.image, picture.box) if whole and picture.box else (picture.crop, None)
    return captioner.describe(image, num_captions=num_captions, max_new_tokens=max_new_tokens, box=box)


def with_losses(candidates: Candidates, losses: Sequence[Sequence[float]]) -> Candidates:
    """Return the candidates with their fixed-noise losses, the lowest mean first; equal ones keep their order."""
    scored = [replace(c, losses=tuple(values)) for c, values in zip(candidates.usable, losses, strict=True)]
    return replace(candidates, usable=tuple(sorted(scored, key=_finite_loss)))


def record_of(candidates: Candidates, method: str, describers: Describers) -> dict[str, Any]:
    """Return what a file says about how the words were found, as JSON values.

    Folders of models are left out, and so are notes, which can name a refiner's address: files get published.
    """
    asked = {candidate.source for candidate in candidates.usable}
    models = {
        "classifier": hub_id(describers.classifier_name) if "class" in asked else None,
        "captioner": hub_id(describers.config.captioner) if asked & {"caption", "refined caption"} else None,
    }
    return {
        "method": method,
        **{name: model for name, model in models.items() if model is not None},
        "candidates": [
            {
                "text": candidate.text,
                "source": candidate.source,
                "raw": candidate.raw,
                "removed": list(candidate.removed),
                "num_cut": candidate.num_cut,
                "loss": candidate.loss,
            }
            for candidate in candidates.usable
        ],
    }


def _finite_loss(candidate: Candidate) -> float:
    return math.inf if candidate.loss is None or math.isnan(candidate.loss) else candidate.loss


def _short(text: str) -> str:
    line = repr(" ".join(text.split()))
    return line if len(line) <= 60 else f"{line[:57]}...'"
