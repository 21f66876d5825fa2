"""`propose_initializer`: find the words to start a concept from, without training."""

from collections.abc import Sequence
from typing import Any

from ..backbones import backbone_for
from ..concepts import METHODS, Concept, find_regions
from ..config import DescriberConfig, SupremeInitConfig
from ..describers import Describers, Region
from ..describers.candidates import Candidates
from ..describers.finding import find_candidates, initializer_record_of
from ..describers.proposal import InitializerProposal
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
    return _proposal(method, found, findings.selected, describers, tokens=tokens.tokens, token_ids=tokens.token_ids)


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
    return _proposal(str(concept.method), found, selected, describers)


def _proposal(
    method: str,
    found: Candidates,
    pictures: Sequence[SelectedPicture],
    describers: Describers,
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
        record=initializer_record_of(found, method, describers),
    )
