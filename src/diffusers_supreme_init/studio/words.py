"""The thing -> words to start from, how sure the choice is, and which tokens a text becomes."""

import re
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from ..backbones import backbone_for
from ..concepts import METHODS, Concept
from ..config import SupremeInitConfig
from ..describers import Mask, Region
from ..describers.proposal import InitializerProposal
from ..describers.wording import tells_surroundings
from ..inputs.paths import looks_like_path
from ..text.tokenization import tokenize_initializer
from ..training.preparation import initializer_limits
from ..training.proposals import propose_initializer
from ..triggers import check_placeholder_token
from .messages import VisitorError, heard
from .pointing import as_mask
from .settings import MAX_PROMPT_LETTERS, StudioSettings

DEFAULT_NAME = "<my-thing>"
_UNNAMED = "<studio-words>"
_BARE = re.compile(r"[\w-]+")


@dataclass(frozen=True)
class Tokens:
    """A text as the model reads it.

    Attributes:
        tokens: The tokens; each becomes one trained vector.
        limit: How many fit.
    """

    tokens: tuple[str, ...]
    limit: int


def find_words(
    settings: StudioSettings, picture: Image.Image, mask: Mask | None
) -> tuple[InitializerProposal, list[str]]:
    """Ask classifier, captioner and refiner for words, compare them on the thing; return them with notices.

    Raises:
        SupremeInitError: No model is there, or none gives usable words.
    """
    with settings.using_eyes, settings.using_model, heard() as notices:
        proposal = propose_initializer(
            picture,
            "auto",
            pipe=settings.pipe,
            region=None if mask is None else Region(mask=as_mask(mask)),
            describers=settings.describers,
            config=SupremeInitConfig(**settings.training),
        )
    # Without pictures: it is kept as long as its visitor is here, and sent to the process that trains.
    return replace(proposal, pictures=()), [*notices, *proposal.notes]


def read_words(settings: StudioSettings, words: str) -> Tokens:
    """Return the tokens that a text becomes.

    Raises:
        VisitorError: There are no words, or far too many letters.
        InitializerError: The words are of another script, or name a special token.
    """
    check_length(words, "The words")
    words = words.strip()
    if not words:
        raise VisitorError("Write a few words that describe the thing, such as: a red mug.")
    if words in METHODS or looks_like_path(words):
        raise VisitorError(f"“{words[:80]}” is the name of a file or a setting. Describe the thing in a few words.")
    backbone = backbone_for(settings.pipe)
    concept = Concept(images=Image.new("RGB", (8, 8)), placeholder_token=_UNNAMED, initializer="*")
    limits = initializer_limits(backbone, concept, SupremeInitConfig(**settings.training))
    tokens = tokenize_initializer(words, backbone.trained[0].tokenizer).tokens
    return Tokens(tuple(map(_plain, tokens)), min(limit.limit for limit in limits))


def check_words_fit(tokens: Tokens) -> None:
    """Check that words are not too long.

    Raises:
        VisitorError: They are.
    """
    if len(tokens.tokens) > tokens.limit:
        raise VisitorError(
            f"These words become {len(tokens.tokens)} pieces, and at most {tokens.limit} fit. Please shorten them."
        )


def named(name: str) -> str:
    """Return a name as a new word: ``mug`` becomes ``<mug>``.

    Raises:
        VisitorError: It is empty or too long.
        PlaceholderTokenError: It cannot be a word of its own.
    """
    text = name.strip()
    if not text:
        raise VisitorError("Give the new word a name, such as <mug>.")
    if len(text) > 60:
        raise VisitorError("The name of the new word may have at most 60 letters.")
    token = f"<{text.lower()}>" if _BARE.fullmatch(text) else text
    with heard():
        check_placeholder_token(token, [])
    return token


def proposed_name(proposal: InitializerProposal) -> str:
    """Return a name for the word: the best class label, else the last of the words."""
    labels = [one.text for one in proposal.candidates if one.source == "class"]
    bare = re.sub(r"[^\w-]+", "-", (labels or proposal.text.split()[-1:])[0].lower()).strip("-")
    return f"<{bare}>" if bare else DEFAULT_NAME


def how_sure(proposal: InitializerProposal) -> list[str]:
    """Say how sure the choice of the first words is, and why words with a lower loss are not the first."""
    first, *others = proposal.candidates
    if not others:
        return ["Only one description was found, so there was nothing to compare."]
    if proposal.num_tied > 1:
        told = [
            f"The first {proposal.num_tied} fit about equally well: their losses differ by less than chance. Take the "
            "one that you like best."
        ]
    else:
        told = ["The first one fits best."]
    lower = [one for one in others if one.loss is not None and first.loss is not None and one.loss < first.loss]
    if any(one.source == "class" for one in lower):
        told.append("A bare name learns less than a description, so it comes first only if it is far ahead.")
    if any(tells_surroundings(one.text) for one in lower):
        told.append("Words about the background would be learned along with the thing, so they come later.")
    return told


def check_length(text: str, what: str) -> None:
    """Check that a text is not absurdly long.

    Raises:
        VisitorError: It is.
    """
    if len(text) > MAX_PROMPT_LETTERS:
        raise VisitorError(
            f"{what} may have at most {MAX_PROMPT_LETTERS:,} letters, and these are {len(text):,}. Please shorten it."
        )


def _plain(token: Any) -> str:
    """Return a token as a reader knows it, without the signs of the tokenizer for spaces and word ends."""
    return str(token).replace("</w>", "").replace("▁", "").replace("Ġ", "") or str(token)
