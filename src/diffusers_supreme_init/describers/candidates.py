"""Selected pictures -> candidate descriptions, each with a record of what was removed from it."""

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import DescriberError
from ..files import hub_id
from ..text.tokenization import TokenLimit, cut_to_tokens, tokenize_initializer
from .answers import is_refusal
from .description import Description
from .models import Describers
from .refiner import refine
from .selection import SelectedPicture
from .wording import Wording, clean_caption, clean_label, is_latin, tells_surroundings, without_surroundings

_MAX_RAW_LENGTH = 500
_LABEL_MARGIN = 2.0
"""Standard errors by which a class label has to be ahead of captions."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Words that a concept could start from.

    Attributes:
        text: The words.
        source: ``"class"``, ``"caption"``, ``"refined caption"`` or ``"text"`` (the user's own).
        raw: The uncleaned answer of the describer, or of the refiner for a refined caption.
        score: The describer's own score, see `Description`; None for the user's text and for refined captions.
        removed: Boilerplate that was removed from `raw`.
        num_cut: Number of tokens that were cut because they do not fit.
        losses: Fixed-noise losses of the untouched model, one per noise; empty if there was nothing to choose.
    """

    text: str
    source: str
    raw: str
    score: float | None = None
    removed: tuple[str, ...] = ()
    num_cut: int = 0
    losses: tuple[float, ...] = field(default=(), repr=False)

    @property
    def loss(self) -> float | None:
        """Mean of `losses`."""
        return sum(self.losses) / len(self.losses) if self.losses else None


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The candidates for one concept.

    Attributes:
        usable: Candidates with different texts, in the order in which they were found, or `ranked`.
        notes: Why an answer was refused or a describer failed, one line each.
        num_tied: Number of leading candidates that the noises cannot tell apart; 0 before they were compared.
    """

    usable: tuple[Candidate, ...]
    notes: tuple[str, ...] = ()
    num_tied: int = 0


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


@functools.lru_cache(maxsize=1 << 15)
def _name_of(label: str, synonym: str) -> str:
    """Return what labels of the same words have in common; a label that names nothing has only itself."""
    try:
        return clean_label(label, synonym=synonym).text.casefold()
    except DescriberError:
        return label


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


def find_candidates(
    method: str,
    pictures: Sequence[SelectedPicture],
    describers: Describers,
    *,
    own: Sequence[str] = (),
    limits: Sequence[TokenLimit] = (),
    keep_boilerplate: bool = False,
    object_alone: bool = False,
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
    # Captions first: they win ties.
    num_captions = config.num_captions if automatic else 1
    if method in ("caption", "auto") and num_captions:
        for picture in pictures:
            collector.add_captions(_captions(picture, describers, num_captions), keep_raw=automatic)
    num_labels = config.num_labels if automatic else 1
    if method in ("class", "auto") and num_labels:
        crops = [picture.crop for picture in pictures]
        name_of = str.strip if config.candidate_labels else functools.partial(_name_of, synonym=config.label_synonym)
        collector.add_labels(describers.classifier.describe(crops, num_labels=num_labels, name_of=name_of))
    if not collector.usable:
        reasons = "; ".join(dict.fromkeys(collector.notes)) or "nothing was asked (num_labels=0, num_captions=0)"
        raise DescriberError(f"initializer={method!r}: no usable words were found: {reasons}. Pass the words yourself")
    return Candidates(usable=tuple(collector.usable.values()), notes=tuple(dict.fromkeys(collector.notes)))


def _captions(picture: SelectedPicture, describers: Describers, num_captions: int) -> list[Description]:
    captioner, max_new_tokens = describers.captioner, describers.config.max_caption_tokens
    # A captioner that takes boxes gets the whole picture, surroundings included, unless these are to be removed.
    whole = captioner.describes_boxes and describers.config.region_background == "keep"
    image, box = (picture.image, picture.box) if whole and picture.box else (picture.crop, None)
    return captioner.describe(image, num_captions=num_captions, max_new_tokens=max_new_tokens, box=box)


def ranked(candidates: Candidates, losses: Sequence[Sequence[float]], *, object_alone: bool = False) -> Candidates:
    """Return the candidates with their fixed-noise losses; training starts from the first.

    A candidate is tied with the best if its mean loss is at most one standard error of the paired differences above
    it: other noises could have swapped the two. Tied candidates come first: those that do not mention surroundings
    before the rest, otherwise in the order in which they were found. The others follow by their loss.

    A class label has to be ahead of all other words by more than two standard errors. It is a row or two, which learn
    far less than a caption's (``docs/initializers.md``), so a little luck with the noises should not decide for it.

    Args:
        candidates: In the order in which they were found.
        losses: One loss per noise for each candidate, over the same noises, in pairs of opposite ones.
        object_alone: Whether words that mention surroundings are passed over as long as others have finite losses.
            Told the surroundings, a denoiser predicts the object better as well, so a low loss is no reason to take
            them into the words of the object.
    """
    scored = [replace(c, losses=tuple(values)) for c, values in zip(candidates.usable, losses, strict=True)]
    finite = [one for one in scored if math.isfinite(_finite_loss(one))]
    passed_over = [one for one in finite if object_alone and tells_surroundings(one.text)]
    compared = [one for one in finite if one not in passed_over] or scored
    compared = _without_doubtful_labels(compared)
    best = min(compared, key=_finite_loss)
    tied = [one for one in compared if _is_tied(one, best)]
    tied.sort(key=lambda one: tells_surroundings(one.text))
    others = sorted((one for one in scored if one not in tied), key=_finite_loss)
    return replace(candidates, usable=(*tied, *others), num_tied=len(tied))


def paired_difference(losses: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard error of losses minus others over the same noises; infinity for a single pair.

    The losses of opposite noises, 2k and 2k + 1, are one measurement: their errors are not independent.
    """
    every = [a - b for a, b in zip(losses, others, strict=True)]
    differences = [statistics.fmean(every[first : first + 2]) for first in range(0, len(every), 2)]
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.inf
    return statistics.fmean(every), error


def _without_doubtful_labels(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Leave out class labels that are not clearly ahead of all other words, unless there are no others."""
    others = [one for one in candidates if one.source != "class"]
    if not others:
        return list(candidates)
    best = min(others, key=_finite_loss)
    return [one for one in candidates if one.source != "class" or not _is_tied(best, one, _LABEL_MARGIN)]


def _is_tied(candidate: Candidate, best: Candidate, num_errors: float = 1.0) -> bool:
    """Whether a loss is at most so many standard errors of the paired differences above another."""
    if not math.isfinite(_finite_loss(candidate)):
        return False
    mean, error = paired_difference(candidate.losses, best.losses)
    return mean <= num_errors * error


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
                "loss": candidate.loss if math.isfinite(_finite_loss(candidate)) else None,
            }
            for candidate in candidates.usable
        ],
    }


def _finite_loss(candidate: Candidate) -> float:
    return candidate.loss if candidate.loss is not None and math.isfinite(candidate.loss) else math.inf


def _short(text: str) -> str:
    line = repr(" ".join(text.split()))
    return line if len(line) <= 60 else f"{line[:57]}...'"
