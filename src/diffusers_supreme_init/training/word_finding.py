"""Concepts -> words to start from: find candidates with describers, compare them with the untouched model.

`propose_initializer` and the trainer take the same three steps: `describe_concept`, `encode_pictures`,
`choose_words`.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from ..backbones import Backbone
from ..concepts import Concept, find_masks, find_regions
from ..config import SupremeInitConfig
from ..describers import Describers, Mask
from ..describers.asking import Answers
from ..describers.candidates import Candidates, ranked
from ..describers.finding import find_candidates
from ..describers.selection import SelectedPicture, object_in_the_middle, select_pictures, training_pictures
from ..errors import PictureError, SupremeInitWarning, TrainingError
from ..objective.draws import PromptedPictures
from ..objective.latents import PictureLatents, encode_concept
from ..objective.losses import fixed_noise_losses
from ..objective.phases import ready_to_encode, ready_to_step
from ..pictures import TrainingPictures, find_pictures, load_mask, load_picture
from ..templates import fill_template
from .preparation import compares_words, initializer_limits, validation_template

_SMALLEST_SHARE, _LARGEST_SHARE = 0.01, 0.9
"""Of a picture: a mask outside of this range has probably missed the object."""
_NO_OBJECT = "no object was found in the trained part of the picture, so words were compared on all of it"


@dataclass(frozen=True)
class Findings:
    """What the describers found for one concept.

    Attributes:
        selected: The pictures with their regions; empty if no describer had to look at them.
        pictures: The pictures and masks to train on.
        candidates: Words to choose from; None if the words are already known.
    """

    selected: tuple[SelectedPicture, ...]
    pictures: TrainingPictures
    candidates: Candidates | None


def describe_concept(
    concept: Concept,
    backbone: Backbone,
    describers: Describers,
    config: SupremeInitConfig,
    *,
    words_are_known: bool = False,
) -> Findings:
    """Find a concept's regions, and candidates for its words unless these are known.

    Raises:
        PictureError: A mask is unusable.
        RegionError: A region selects nothing usable.
        DescriberError: A model cannot be loaded, or no model gives usable words.
    """
    found = find_regions_of(concept, describers, config, words_are_known=words_are_known)
    is_known = words_are_known or concept.method is None
    return found if is_known else find_words(found, concept, backbone, describers, config)


def find_regions_of(
    concept: Concept, describers: Describers, config: SupremeInitConfig, *, words_are_known: bool = False
) -> Findings:
    """Find a concept's regions, the first half of `describe_concept`; without candidates.

    Raises:
        PictureError: A mask is unusable.
        RegionError: A region selects nothing usable.
        DescriberError: The segmenter cannot be loaded.
    """
    sources = find_pictures(concept.images, quietly=True)
    masks, regions = find_masks(concept, len(sources), quietly=True), find_regions(concept, len(sources))
    if (words_are_known or concept.method is None) and regions is None:
        return Findings((), TrainingPictures(sources, masks, masked=config.masked_loss), None)
    selected = tuple(select_pictures(sources, regions, concept.train_on, describers))
    tell_coverage(concept.placeholder_token, [one.mask for one in selected if one.mask is not None])
    pictures = training_pictures(selected, masks, concept.train_on, masked_loss=config.masked_loss)
    return Findings(selected, pictures, None)


def find_words(
    found: Findings,
    concept: Concept,
    backbone: Backbone,
    describers: Describers,
    config: SupremeInitConfig,
    *,
    answers: Answers | None = None,
) -> Findings:
    """Find candidates for a concept's words, the second half of `describe_concept`.

    Args:
        found: From `find_regions_of`.
        concept: The concept.
        backbone: Backbone of the untouched pipeline.
        describers: The models.
        config: Settings.
        answers: What captioner and classifier said already; None: they are asked.

    Raises:
        DescriberError: A model cannot be loaded, or no model gives usable words.
    """
    candidates = find_candidates(
        str(concept.initializer),
        found.selected,
        describers,
        own=concept.candidates,
        limits=initializer_limits(backbone, concept, config),
        keep_boilerplate=config.learnable_property == "style",
        object_alone=concept.method == "auto" and _is_about_object(describers, config),
        answers=answers,
    )
    pictures = found.pictures
    if _needs_object(concept, candidates, pictures, describers, config):
        pictures = replace(pictures, masks=[object_in_the_middle(one.image, describers) for one in found.selected])
    return Findings(found.selected, pictures, candidates)


def given_masks(concept: Concept, describers: Describers, config: SupremeInitConfig) -> list[Image.Image]:
    """Return the masks that a run uses and that no region made: the user's, or the pictures' alpha."""
    is_used = config.masked_loss or (compares_words(concept) and describers.config.score_object)
    if concept.region is not None or not is_used:
        return []
    sources = find_pictures(concept.images, quietly=True)
    masks = find_masks(concept, len(sources), quietly=True)
    if masks is not None:
        return [load_mask(mask) for mask in masks]
    alphas = [load_picture(one).alpha for one in sources] if config.masked_loss else []
    return [alpha for alpha in alphas if alpha is not None]


def tell_coverage(placeholder_token: str, masks: Sequence[Image.Image | Mask]) -> None:
    """Say which masks select nearly everything or nearly nothing of their pictures.

    Raises:
        PictureError: A mask is black everywhere.

    Warns:
        SupremeInitWarning: A mask covers more than 90 % or less than 1 % of its picture.
    """
    shares = [float(np.asarray(mask).mean()) / (255 if isinstance(mask, Image.Image) else 1) for mask in masks]
    if black := [index for index, share in enumerate(shares) if share == 0]:
        raise PictureError(f"mask: expected something white, got a black one for picture {black[0]}")
    unusual = [(index, share) for index, share in enumerate(shares) if not _SMALLEST_SHARE <= share <= _LARGEST_SHARE]
    told = [f"{100 * share:.1f} % of picture {index}" for index, share in unusual]
    if told:
        warnings.warn(
            f"{placeholder_token}: the mask covers {', '.join(told[:10])}; look whether it shows the object",
            SupremeInitWarning,
            stacklevel=2,
        )


def _needs_object(
    concept: Concept,
    candidates: Candidates,
    pictures: TrainingPictures,
    describers: Describers,
    config: SupremeInitConfig,
) -> bool:
    """Whether the object has to be found first, to compare words on it; a style is compared on the whole picture."""
    is_compared = concept.method == "auto" and len(candidates.usable) > 1 and _is_about_object(describers, config)
    return is_compared and pictures.masks is None and not pictures.masked


def _is_about_object(describers: Describers, config: SupremeInitConfig) -> bool:
    """Whether words should describe the object alone; a style is everywhere."""
    return describers.config.score_object and config.learnable_property == "object"


def encode_pictures(
    backbone: Backbone,
    pictures: Sequence[TrainingPictures],
    config: SupremeInitConfig,
    device: torch.device,
    *,
    progress_bar: bool = True,
) -> list[PictureLatents]:
    """Encode the pictures of several concepts; the autoencoder is on the device only while it works."""
    with ready_to_encode(backbone, device):
        return [encode_concept(backbone, each, config, progress_bar=progress_bar) for each in pictures]


def choose_words(
    backbone: Backbone,
    findings: Sequence[Findings],
    latents: Sequence[PictureLatents],
    config: SupremeInitConfig,
    describers: Describers,
    device: torch.device,
    *,
    autocast_dtype: torch.dtype | None = None,
    progress_bar: bool = True,
) -> list[Candidates | None]:
    """Return the candidates of each concept with the best one first, see `ranked`; nothing is trained.

    Candidates are compared by their fixed-noise loss, over the same noises and timesteps. Rows start as copies of the
    words' embeddings, so this is the loss at step 0, weighted as training weights it. With `score_object`, the loss
    counts only on the object if its place is known, and words about surroundings are avoided. Otherwise words about
    the background would win, because they explain more pixels.

    Raises:
        TrainingError: No candidate of a concept has a finite loss.
    """
    chosen = [one.candidates for one in findings]
    asked = {index: found for index, found in enumerate(findings) if is_undecided(found)}
    if not asked:
        return chosen
    with ready_to_step(
        backbone, device, [prompt for one in asked.values() for prompt in comparison_prompts(one, config)]
    ):
        for index, found in asked.items():
            chosen[index] = choose_among(
                backbone,
                found,
                latents[index],
                config,
                describers,
                device,
                autocast_dtype=autocast_dtype,
                progress_bar=progress_bar,
            )
    return chosen


def is_undecided(findings: Findings) -> bool:
    """Whether there are several candidates, which have to be compared."""
    return findings.candidates is not None and len(findings.candidates.usable) > 1


def comparison_prompts(findings: Findings, config: SupremeInitConfig) -> list[str]:
    """Return the prompts whose losses `choose_among` compares; empty if there is nothing to compare."""
    return _prompts(findings.candidates, config) if findings.candidates is not None and is_undecided(findings) else []


def choose_among(
    backbone: Backbone,
    findings: Findings,
    latents: PictureLatents,
    config: SupremeInitConfig,
    describers: Describers,
    device: torch.device,
    *,
    autocast_dtype: torch.dtype | None = None,
    progress_bar: bool = True,
) -> Candidates:
    """Compare one concept's candidates, see `choose_words`; use within `ready_to_step`.

    Raises:
        TrainingError: No candidate has a finite loss.
    """
    found = findings.candidates
    assert found is not None, "there is something to compare"
    num_samples = describers.config.score_samples
    if describers.config.score_object:
        if latents.object_mask is None and findings.pictures.masks is not None:
            found = replace(found, notes=(*found.notes, _NO_OBJECT))
        latents = replace(latents, mask=latents.object_mask)
    # At least one pair of noises per picture, so that every picture counts.
    settings = replace(config, validation_samples=max(num_samples, 2 * len(latents)))
    losses = [
        fixed_noise_losses(
            backbone, PromptedPictures(prompt, latents), settings, device, autocast_dtype=autocast_dtype
        )
        for prompt in tqdm(
            _prompts(found, config), desc="comparing words", unit="text", leave=False, disable=not progress_bar
        )
    ]
    if not any(math.isfinite(sum(values)) for values in losses):
        raise TrainingError(
            "initializer: expected finite losses, got NaN or infinity for every candidate; load the pipeline "
            "in float32 or bfloat16"
        )
    return ranked(found, losses, object_alone=_is_about_object(describers, config))


def _prompts(candidates: Candidates, config: SupremeInitConfig) -> list[str]:
    template = validation_template(config)
    return [fill_template(template, one.text, one.text) for one in candidates.usable]
