"""Selected pictures -> candidate descriptions, each with a record of what was removed from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import DescriberError
from ..files import hub_id
from ..text.tokenization import TokenLimit, cut_to_tokens, tokenize_initializer
from .answers import is_refusal
from .asking import Answers, Question, ask
from .candidates import Candidate, Candidates, finite_loss
from .description import Description
from .models import Describers
from .refiner import refine
from .selection import SelectedPicture
from .wording import Wording, clean_caption, clean_label, is_latin, tells_surroundings, without_surroundings

_MAX_RAW_LENGTH = 500


def find_candidates(
    method: str,
    pictures: Sequence[SelectedPicture],
    describers: Describers,
    *,
    own: Sequence[str] = (),
    limits: Sequence[TokenLimit] = (),
    keep_boilerplate: bool = False,
    object_alone: bool = False,
    answers: Answers | None = None,
) -> Candidates:
    """Ask the describers for candidate descriptions of one concept.

    Args:
        method: ``"class"``: the most probable label over all pictures. ``"caption"``: the best caption of each
            picture. ``"auto"``: several labels, several captions of each picture, their refinements, and `own`.
        pictures: Pictures of the concept.
        describers: The models and their settings.
        own: The user's texts.
        limits: Token limits of the text encoders; longer texts are cut between words.
        keep_boilerplate: Whether to keep phrases such as "a painting of", which matter for a style.
        object_alone: Whether words that mention surroundings are a candidate without them as well.
        answers: What the models said already, from `ask_together`; None: they are asked here.

    Raises:
        InitializerError: One of the user's texts gives no tokens.
        DescriberError: A model cannot be loaded, or no answer is usable.
    """
    config, automatic = describers.config, method == "auto"
    if config.max_initializer_tokens is not None:
        limits = [replace(one, limit=min(one.limit, config.max_initializer_tokens)) for one in limits]
    removes = config.clean_captions and not keep_boilerplate
    collector = _Collector(describers, limits, removes_boilerplate=removes, adds_object_alone=object_alone)
    collector.add_own(own)
    found = answers or ask(Question(method, pictures), describers)
    for captions in found.captions:  # before labels: captions win ties
        collector.add_captions(captions, keep_raw=automatic)
    collector.add_labels(found.labels)
    if not collector.usable:
        reasons = "; ".join(dict.fromkeys(collector.notes)) or "nothing was asked (num_labels=0, num_captions=0)"
        raise DescriberError(f"initializer={method!r}: no usable words were found: {reasons}. Pass the words yourself")
    return Candidates(usable=tuple(collector.usable.values()), notes=tuple(dict.fromkeys(collector.notes)))


def initializer_record_of(candidates: Candidates, method: str, describers: Describers) -> dict[str, Any]:
    """Return the record of how the words were found, as JSON values.

    Records get published, so they contain no local model folders and no notes, which can name a refiner's address.
    """
    asked = {candidate.source for candidate in candidates.usable}
    models = {
        "classifier": hub_id(describers.classifier_name) if "class" in asked else None,
        "captioner": hub_id(describers.config.captioner) if asked & {"caption", "refined caption"} else None,
    }
    return {
        "method": method,
        "num_tied": candidates.num_tied,
        **{name: model for name, model in models.items() if model is not None},
        "candidates": [
            {
                "text": candidate.text,
                "source": candidate.source,
                "raw": candidate.raw[:_MAX_RAW_LENGTH],
                "removed": list(candidate.removed),
                "num_cut": candidate.num_cut,
                "loss": candidate.loss if math.isfinite(finite_loss(candidate)) else None,
            }
            for candidate in candidates.usable
        ],
    }


@dataclass
class _Collector:
    """Gathers the candidates of one concept."""

    describers: Describers
    limits: Sequence[TokenLimit]
    removes_boilerplate: bool
    adds_object_alone: bool
    usable: dict[str, Candidate] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    refiner_failed: bool = False

    def add_own(self, texts: Sequence[str]) -> None:
        for text in texts:
            line = " ".join(text.split())
            for limit in self.limits:
                tokenize_initializer(line, limit.tokenizer)  # the user's own mistake is an error, not a note
            self._add(Wording(line, text), "text")

    def add_labels(self, descriptions: Sequence[Description]) -> None:
        config = self.describers.config
        for description in descriptions:
            if config.candidate_labels:  # written by the user: not a synset, nothing to clean
                self._add(Wording(description.text, description.text), "class", description.score)
                continue
            try:
                wording = clean_label(description.text, synonym=config.label_synonym)
            except DescriberError as error:
                self.notes.append(str(error))
            else:
                self._add(wording, "class", description.score)

    def add_captions(self, descriptions: Sequence[Description], *, keep_raw: bool) -> None:
        for description in descriptions:
            raw = clean_caption(description.text, boilerplate=self.removes_boilerplate)
            refined = self._refined(raw.text) if raw.text else None
            if keep_raw or refined is None:
                self._add(raw, "caption", description.score)
            if refined is not None:
                self._add(refined, "refined caption")

    def _add(self, wording: Wording, source: str, score: float | None = None) -> None:
        """Add a candidate, and its words without surroundings if it mentions them; or note why it is unusable."""
        problem = None if source == "text" else _problem(wording)
        if problem is not None:
            self.notes.append(f"{source}: {problem}")
            return
        text, num_cut = cut_to_tokens(wording.text, self.limits)
        for limit in self.limits:
            if limit.num_beyond(text):
                self.notes.append(
                    f"{source}: expected at most {limit.limit} tokens, got {limit.count(text)} in {_short(text)}"
                )
                return
        candidate = Candidate(
            text=text, source=source, raw=wording.raw, score=score, removed=wording.removed, num_cut=num_cut
        )
        # Answers of models that differ only in case are one; a user may want to compare two such texts.
        if source == "text" or text.casefold() not in {known.casefold() for known in self.usable}:
            self.usable.setdefault(text, candidate)
        if self.adds_object_alone and tells_surroundings(wording.text):
            alone = without_surroundings(wording)
            if alone.text and not tells_surroundings(alone.text):
                self._add(alone, source, score)

    def _refined(self, caption: str) -> Wording | None:
        """Return the refined caption; None without a refiner, or if its answer is unusable."""
        if self.describers.refiner is None or self.refiner_failed:
            return None
        refinement = refine(self.describers.refiner, caption)
        if refinement.failure is not None:
            self.refiner_failed = True  # not asked again: a server that is down would delay every caption
            self.notes.append(f"refiner: {refinement.failure}; kept the caption")
            return None
        wording = clean_caption(refinement.text, boilerplate=self.removes_boilerplate)
        problem, (_, num_cut) = _problem(wording), cut_to_tokens(wording.text, self.limits)
        if problem is None and num_cut:
            problem = f"expected at most {min(limit.limit for limit in self.limits)} tokens, got {num_cut} more"
        if problem is None:
            return wording
        self.notes.append(f"refiner: {problem}; kept the caption")
        return None


def _problem(wording: Wording) -> str | None:
    """Return why a model's words are unusable as a description; None if they are usable."""
    if not wording.raw.strip():
        return "expected words, got nothing"
    if is_refusal(wording.raw) or is_refusal(wording.text):
        return f"expected words that describe the picture, got a refusal ({_short(wording.raw)})"
    if not wording.text:
        return f"expected words that describe the picture, got only boilerplate ({_short(wording.raw)})"
    if not is_latin(wording.text):
        return (
            f"expected English, which the text encoder knows, got another script ({_short(wording.raw)}); ask for "
            "English with caption_prompt, or pass a refiner"
        )
    return None


def _short(text: str) -> str:
    line = repr(" ".join(text.split()))
    return line if len(line) <= 60 else f"{line[:57]}...'"
