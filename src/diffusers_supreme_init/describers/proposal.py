"""`InitializerProposal`: the words that were found to start a concept from, and everything they were compared with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from .candidates import Candidate, paired_difference
from .masks import Mask
from .selection import SelectedPicture


@dataclass(frozen=True, kw_only=True)
class InitializerProposal:
    """Words to start a concept from, how they were found, and what else was considered.

    Pass it as ``initializer=``: the concept starts from `text`, and its files tell what it was compared with.

    Attributes:
        method: ``"class"``, ``"caption"`` or ``"auto"``.
        candidates: All candidates. The first is the proposal; if losses were measured, the candidates tied with it
            come next, and the others follow by loss. Those that mention surroundings may have lower losses.
        notes: Candidates and describers that were refused or failed, with the reason.
        num_tied: How many of the first candidates the noises cannot tell apart; 0 if candidates were not compared.
        tokens: The tokens of the text, one per row, read by the first trained text encoder's tokenizer; empty without
            a pipeline, or if the words were chosen by hand.
        token_ids: Their ids.
        pictures: The pictures with their regions.
        record: How the words were found, as JSON values for ``training.json``: the method, the models, the candidates
            in the order of their comparison, and ``"chosen"``, the words that were chosen by hand.
    """

    method: str
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]
    num_tied: int
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    pictures: tuple[SelectedPicture, ...] = field(repr=False)
    record: Mapping[str, Any] = field(repr=False)

    @property
    def text(self) -> str:
        """The words to start from."""
        return self.candidates[0].text

    @property
    def raw(self) -> str:
        """The describer's output before cleaning."""
        return self.candidates[0].raw

    @property
    def removed(self) -> tuple[str, ...]:
        """Boilerplate phrases that were removed from `raw`."""
        return self.candidates[0].removed

    @property
    def num_cut(self) -> int:
        """Number of tokens that were cut because they do not fit."""
        return self.candidates[0].num_cut

    @property
    def mask(self) -> Mask | None:
        """The region's pixels in the first picture, ``(height, width)``, bool; None without a region."""
        return self.pictures[0].mask

    @property
    def crop(self) -> Image.Image:
        """The part of the first picture that describers looked at."""
        return self.pictures[0].crop

    def choose(self, words: str) -> "InitializerProposal":
        """Return the proposal with other words first: those of another candidate, or words of your own.

        ```python
        concept = Concept(images="mug.jpg", placeholder_token="<mug>", initializer=proposal.choose("a red mug"))
        ```
        """
        if words == self.text:
            return self
        own = Candidate(text=words, source="text", raw=words)
        chosen = next((one for one in self.candidates if one.text == words), own)
        others = (one for one in self.candidates if one is not chosen)
        return replace(
            self,
            candidates=(chosen, *others),
            num_tied=0,
            tokens=(),
            token_ids=(),
            record={**self.record, "chosen": words},
        )

    def table(self) -> str:
        """Return the candidates as a text table, the proposed one first; see `candidate_table`."""
        return candidate_table(self.candidates)


def candidate_table(candidates: Sequence[Candidate]) -> str:
    """Return candidates as a text table: loss, paired difference to the first +- standard error, source, text."""
    rows = []
    for candidate in candidates:
        loss = f"{candidate.loss:.5f}" if candidate.loss is not None else "-"
        cut = f" ({candidate.num_cut} tokens cut)" if candidate.num_cut else ""
        rows.append((loss, _distance(candidate, candidates[0]), candidate.source, candidate.text + cut))
    header = ("loss", "above the first", "source", "text")
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(3)]
    lines = ["  ".join([*(f"{row[i]:{widths[i]}}" for i in range(3)), row[3]]) for row in (header, *rows)]
    return "\n".join(lines)


def _distance(candidate: Candidate, best: Candidate) -> str:
    if candidate is best or len(candidate.losses) < 2:
        return "-"
    mean, error = paired_difference(candidate.losses, best.losses)
    return f"{mean:.5f} +- {error:.5f}"
