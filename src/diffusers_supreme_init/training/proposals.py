"""`propose_initializer`: find the words to start a concept from, without training."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from ..backbones import backbone_for
from ..concepts import METHODS, Concept, find_regions
from ..config import DescriberConfig, SupremeInitConfig
from ..describers import Describers, Mask, Region
from ..describers.candidates import Candidate, Candidates, find_candidates, paired_difference
from ..describers.selection import SelectedPicture, select_pictures
from ..errors import ConfigError, shown
from ..objective.losses import AUTOCAST_DTYPES
from ..objective.phases import check_trainable
from ..pictures import PictureSource, find_pictures
from ..text.tokenization import tokenize_initializer
from ..text.torch_state import own_torch_state
from .preparation import check_concepts
from .word_finding import choose_words, describe_concept, encode_pictures

_UNNAMED = "<initializer-proposal>"
"""Placeholder token of a concept that has no name yet; no draw of the fixed-noise loss depends on it."""


@dataclass(frozen=True, kw_only=True)
class InitializerProposal:
    """Words to start a concept from, how they were found, and what else was considered.

    Attributes:
        method: ``"class"``, ``"caption"`` or ``"auto"``.
        candidates: All candidates. The first is the proposal; if losses were measured, the candidates tied with it
            come next, and the others follow by loss. Those that mention surroundings may have lower losses.
        notes: Candidates and describers that were refused or failed, with the reason.
        num_tied: How many of the first candidates the noises cannot tell apart; 0 if candidates were not compared.
        tokens: The tokens of the text, one per row, read by the first trained text encoder's tokenizer; empty without
            a pipeline.
        token_ids: Their ids.
        pictures: The pictures with their regions.
    """

    method: str
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]
    num_tied: int
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    pictures: tuple[SelectedPicture, ...] = field(repr=False)

    @property
    def text(self) -> str:
        """The proposed words, to be passed as ``initializer=``."""
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

    def table(self) -> str:
        """Return the candidates as a text table, the proposed one first; see `candidate_table`."""
        return candidate_table(self.candidates)


@own_torch_state()
def propose_initializer(
    images: PictureSource | Sequence[PictureSource],
    method: str = "auto",
    *,
    pipe: Any = None,
    region: Region | Sequence[Region] | None = None,
    candidates: Sequence[str] = (),
    describers: Describers | None = None,
    config: SupremeInitConfig | None = None,
) -> InitializerProposal:
    """Find words for one object, from its pictures; nothing is trained and nothing is changed.

    ```python
    proposal = propose_initializer("desk.jpg", "caption", region=Region(points=(40, 22)))
    print(proposal.text)
    ```

    Args:
        images: A picture, a folder, or a sequence of both, all showing one object.
        method: ``"class"`` takes the most probable class label. ``"caption"`` takes a caption; with several pictures,
            the one with the lowest loss over all of them. ``"auto"`` compares labels, captions, their refinements and
            your own `candidates`, and takes the one with the lowest loss on the object. Among candidates that the
            noises cannot tell apart (`num_tied`), it takes the one found first: your own, then captions. A class label
            has to be clearly ahead, since it learns less.
            A candidate that mentions surroundings is also compared without them, and is itself taken only if all
            candidates mention some, or with ``score_object=False``.
        pipe: The pipeline that will be trained. It counts tokens and measures losses; ``"auto"`` and captions of
            several pictures need it.
        region: The object to describe, one region per picture; None: the whole picture.
        candidates: Your own words, for ``"auto"``.
        describers: Models and settings; None: the defaults of `DescriberConfig`.
        config: Settings of the training to come; the seed, the resolution and the templates matter here.

    Raises:
        SupremeInitError: One of its subclasses; the message says what was expected, what was got and what to do.
    """
    if not isinstance(method, str) or method not in METHODS:
        raise ConfigError(f"method: expected one of {METHODS}, got {shown(method)}")
    describers = Describers(describers) if isinstance(describers, DescriberConfig) else describers or Describers()
    config = config or SupremeInitConfig()
    concept = Concept(
        images=images, placeholder_token=_UNNAMED, initializer=method, region=region, candidates=candidates
    )
    if pipe is None:
        return _without_pipeline(concept, describers)
    backbone = backbone_for(pipe, config.train_text_encoders)
    backbone.check_config(config)
    check_trainable(backbone)
    check_concepts(backbone, [concept], config)
    findings = describe_concept(concept, backbone, describers, config)
    found = findings.candidates
    assert found is not None, "no words were given, so they were asked for"
    if len(found.usable) > 1:
        device = next(backbone.denoiser.parameters()).device
        latents = encode_pictures(backbone, [findings.pictures], config, device)
        dtype = AUTOCAST_DTYPES[config.mixed_precision or "no"]
        chosen = choose_words(backbone, [findings], latents, config, describers, device, autocast_dtype=dtype)
        found = chosen[0] or found
    tokens = tokenize_initializer(found.usable[0].text, backbone.trained[0].tokenizer)
    return _proposal(method, found, findings.selected, tokens=tokens.tokens, token_ids=tokens.token_ids)


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


def _without_pipeline(concept: Concept, describers: Describers) -> InitializerProposal:
    pictures = find_pictures(concept.images)
    regions = find_regions(concept, len(pictures))
    if describers.config.max_initializer_tokens is not None or concept.candidates:
        raise ConfigError(
            "pipe: expected the pipeline that counts tokens and compares candidates, got None with "
            "max_initializer_tokens or candidates; pass pipe="
        )
    several_captions = concept.method == "caption" and len(pictures) > 1
    if concept.method == "auto" or several_captions:
        what = "captions of several pictures" if several_captions else "the candidates of 'auto'"
        raise ConfigError(f"pipe: expected the pipeline by whose loss {what} are compared, got None; pass pipe=")
    selected = select_pictures(pictures, regions, concept.train_on, describers)
    found = find_candidates(str(concept.method), selected, describers)
    return _proposal(str(concept.method), found, selected)


def _proposal(
    method: str,
    found: Candidates,
    pictures: Sequence[SelectedPicture],
    *,
    tokens: tuple[str, ...] = (),
    token_ids: tuple[int, ...] = (),
) -> InitializerProposal:
    return InitializerProposal(
        method=method,
        candidates=found.usable,
        notes=found.notes,
        num_tied=found.num_tied,
        tokens=tokens,
        token_ids=token_ids,
        pictures=tuple(pictures),
    )
