"""`propose_initializer`: the words that a picture says for itself, without training."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm

from ..backbones import Backbone, backbone_for
from ..concepts import METHODS, Concept, find_regions
from ..config import SupremeInitConfig
from ..describers import Describers, Mask, Region
from ..describers.candidates import Candidate, Candidates, find_candidates, with_losses
from ..describers.selection import SelectedPicture, select_pictures, training_pictures
from ..errors import ConfigError, TrainingError
from ..objective.latents import PictureLatents, encode_concept
from ..objective.losses import AUTOCAST_DTYPES, PromptedPictures, fixed_noise_losses
from ..objective.phases import check_trainable, ready_to_encode, ready_to_step
from ..pictures import PictureSource, find_pictures
from ..templates import fill_template
from ..text.placeholders import tokenize_initializer
from .preparation import PreparedConcept, initializer_limits, prepare_concepts

_UNNAMED = "<initializer-proposal>"
"""Stands for the concept that nobody has named yet; no draw of the fixed-noise loss depends on it."""


@dataclass(frozen=True, kw_only=True)
class InitializerProposal:
    """Words to start a concept from, how they were found, and what else was considered.

    Attributes:
        method: ``"class"``, ``"caption"`` or ``"auto"``.
        candidates: All that were considered; the first is proposed, the others follow by their loss where measured.
        notes: What was refused or failed, and why.
        tokens: The tokens of the text, one per row, as the first trained text encoder counts them; empty without a
            pipeline.
        token_ids: Their ids.
        pictures: The pictures with their regions.
    """

    method: str
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    pictures: tuple[SelectedPicture, ...] = field(repr=False)

    @property
    def text(self) -> str:
        """The words, for ``initializer=``."""
        return self.candidates[0].text

    @property
    def raw(self) -> str:
        """What the describer said."""
        return self.candidates[0].raw

    @property
    def removed(self) -> tuple[str, ...]:
        """Boilerplate that was taken out of `raw`."""
        return self.candidates[0].removed

    @property
    def num_cut(self) -> int:
        """Tokens that were cut because they do not fit."""
        return self.candidates[0].num_cut

    @property
    def mask(self) -> Mask | None:
        """The region's pixels in the first picture, ``(height, width)``, bool; None without a region."""
        return self.pictures[0].mask

    @property
    def crop(self) -> Image.Image:
        """What describers looked at of the first picture."""
        return self.pictures[0].crop

    def table(self) -> str:
        """Return the candidates as a table, the proposed one first; see `candidate_table`."""
        return candidate_table(self.candidates)


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
        images: A picture, a folder, or a sequence of both: all of one object.
        method: ``"class"``: the most probable class label. ``"caption"``: a caption; of several pictures the one with
            the lowest loss over all of them. ``"auto"``: labels, captions, their refinements and your own
            `candidates`, of which the one with the lowest loss is taken.
        pipe: The pipeline that will be trained. It counts tokens and measures losses; ``"auto"`` and captions of
            several pictures need it.
        region: The object that is meant, one region per picture.
        candidates: Your own words, for ``"auto"``.
        describers: Models and settings; None: the defaults of `DescriberConfig`.
        config: Of the training to come: seed, resolution and templates matter here.

    Raises:
        SupremeInitError: One of its subclasses, saying what was expected, what was got and what to do.
    """
    if method not in METHODS:
        raise ConfigError(f"method: expected one of {METHODS}, got {method!r}")
    describers, config = describers or Describers(), config or SupremeInitConfig()
    concept = Concept(
        images=images, placeholder_token=_UNNAMED, initializer=method, region=region, candidates=candidates
    )
    if pipe is None:
        return _without_pipeline(concept, describers)
    backbone = backbone_for(pipe, config.train_text_encoders)
    backbone.check_config(config)
    check_trainable(backbone)
    (prepared,) = prepare_concepts(backbone, [concept], config)
    pictures = select_pictures(prepared.pictures, prepared.regions, concept.train_on, describers)
    found = find_words(prepared, pictures, backbone, describers, config)
    if len(found.usable) > 1:
        device = next(backbone.denoiser.parameters()).device
        chosen = training_pictures(pictures, prepared.masks, concept.train_on, masked_loss=config.masked_loss)
        with ready_to_encode(backbone, device):
            latents = encode_concept(backbone, chosen, config)
        template = prepared.validation_template
        prompts = [fill_template(template, candidate.text, candidate.text) for candidate in found.usable]
        with ready_to_step(backbone, device, prompts):
            found = score_candidates(
                backbone,
                latents,
                found,
                config,
                template=template,
                num_samples=describers.config.score_samples,
                device=device,
                autocast_dtype=AUTOCAST_DTYPES[config.mixed_precision or "no"],
            )
    tokens = tokenize_initializer(found.usable[0].text, backbone.trained[0].tokenizer)
    return _proposal(method, found, pictures, tokens=tokens.tokens, token_ids=tokens.token_ids)


def find_words(
    prepared: PreparedConcept,
    pictures: Sequence[SelectedPicture],
    backbone: Backbone,
    describers: Describers,
    config: SupremeInitConfig,
) -> Candidates:
    """Ask the describers for a concept's words; several candidates still have to be compared.

    Raises:
        DescriberError: A model cannot be loaded, or none said anything usable.
    """
    concept = prepared.concept
    return find_candidates(
        str(concept.initializer),
        pictures,
        describers,
        own=concept.candidates,
        limits=initializer_limits(prepared, backbone),
        keep_boilerplate=config.learnable_property == "style",
    )


def score_candidates(
    backbone: Backbone,
    latents: PictureLatents,
    candidates: Candidates,
    config: SupremeInitConfig,
    *,
    template: str,
    num_samples: int,
    device: torch.device,
    autocast_dtype: torch.dtype | None = None,
    progress_bar: bool = True,
) -> Candidates:
    """Measure the fixed-noise loss of each candidate and put the lowest first. Nothing is trained.

    The rows of a concept start as copies of its words' embeddings, so this is the loss at step 0, before any concept
    exists: the same noises and timesteps, for every candidate, as in validation.

    Args:
        backbone: The untouched model.
        latents: The concept's pictures, encoded.
        candidates: At least one.
        config: Seed and largest batch.
        template: The validation template, with one ``{}``.
        num_samples: Noises and timesteps per candidate; never fewer than pictures, so that all of them count.
        device: Where text encoder and denoiser are.
        autocast_dtype: As in training; None: none.
        progress_bar: Whether to show one.

    Raises:
        TrainingError: No candidate has a finite loss.
    """
    settings = replace(config, validation_samples=max(num_samples, len(latents)))
    losses: list[list[float]] = []
    for candidate in tqdm(candidates.usable, desc="comparing words", unit="text", disable=not progress_bar):
        asked = PromptedPictures(fill_template(template, candidate.text, candidate.text), latents)
        losses.append(fixed_noise_losses(backbone, asked, settings, device, autocast_dtype=autocast_dtype))
    if not any(math.isfinite(sum(values)) for values in losses):
        raise TrainingError(
            "initializer: expected finite losses, got NaN or infinity for every candidate; load the pipeline in "
            "float32 or bfloat16"
        )
    return with_losses(candidates, losses)


def candidate_table(candidates: Sequence[Candidate]) -> str:
    """Return candidates as a text table: loss with the paired standard error of the distance to the first, words."""
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
    differences = torch.tensor(candidate.losses) - torch.tensor(best.losses)
    return f"{float(differences.mean()):.5f} +- {float(differences.std()) / len(differences) ** 0.5:.5f}"


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
        tokens=tokens,
        token_ids=token_ids,
        pictures=tuple(pictures),
    )
