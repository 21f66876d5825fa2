"""Prompt templates, and the article rule that fits a description into one.

The lists come from Textual Inversion (Gal et al. 2022, arXiv:2208.01618, ``ldm/data/personalized.py``), which took
the object templates from CLIP's ImageNet prompts (Radford et al. 2021).
"""

import re

from .errors import ConfigError

OBJECT_TEMPLATES: tuple[str, ...] = (
    "a photo of a {}",
    "a rendering of a {}",
    "a cropped photo of the {}",
    "the photo of a {}",
    "a photo of a clean {}",
    "a photo of a dirty {}",
    "a dark photo of the {}",
    "a photo of my {}",
    "a photo of the cool {}",
    "a close-up photo of a {}",
    "a bright photo of the {}",
    "a cropped photo of a {}",
    "a photo of the {}",
    "a good photo of the {}",
    "a photo of one {}",
    "a close-up photo of the {}",
    "a rendition of the {}",
    "a photo of the clean {}",
    "a rendition of a {}",
    "a photo of a nice {}",
    "a good photo of a {}",
    "a photo of the nice {}",
    "a photo of the small {}",
    "a photo of the weird {}",
    "a photo of the large {}",
    "a photo of a cool {}",
    "a photo of a small {}",
)

STYLE_TEMPLATES: tuple[str, ...] = (
    "a painting in the style of {}",
    "a rendering in the style of {}",
    "a cropped painting in the style of {}",
    "the painting in the style of {}",
    "a clean painting in the style of {}",
    "a dirty painting in the style of {}",
    "a dark painting in the style of {}",
    "a picture in the style of {}",
    "a cool painting in the style of {}",
    "a close-up painting in the style of {}",
    "a bright painting in the style of {}",
    "a good painting in the style of {}",
    "a rendition in the style of {}",
    "a nice painting in the style of {}",
    "a small painting in the style of {}",
    "a weird painting in the style of {}",
    "a large painting in the style of {}",
)

VALIDATION_TEMPLATE = "a photo of a {}"
"""Template of the fixed-noise loss: the first reconstruction prompt in section A.3 of the paper."""

_DETERMINERS = r"(?:an?|the|my|your|his|her|its|our|their|one|this|that|some)"
_OWN_DETERMINER = re.compile(rf"{_DETERMINERS}\s+", re.IGNORECASE)
# Matches a determiner and at most one adjective before the slot: "a ", "the cool ", but not "a photo of ".
_DETERMINER_AT_END = re.compile(rf"\b{_DETERMINERS}\s+(?:(?!of\b|in\b)[\w-]+\s+)?\Z", re.IGNORECASE)
_INDEFINITE_AT_END = re.compile(r"\b(a)n?(\s+)\Z", re.IGNORECASE)


def fill_template(template: str, placeholder_token: str, description: str) -> str:
    """Put a placeholder token into a template, with the article that its description needs.

    The article rule: a description with its own article replaces the template's article, and the adjective after it.
    Otherwise ``a`` becomes ``an`` before a vowel.

    >>> fill_template("a photo of a {}", "<mug>", "a skull and bones mug")
    'a photo of <mug>'
    >>> fill_template("a photo of a {}", "<umbrella>", "umbrella")
    'a photo of an <umbrella>'

    Args:
        template: Text with exactly one ``{}``.
        placeholder_token: Text to put in: the token, or the description itself.
        description: The words that `placeholder_token` stands for; ``""`` if unknown.
    """
    text, *rest = template.split("{}")
    for after in rest:
        if _OWN_DETERMINER.match(description):
            text = _DETERMINER_AT_END.sub("", text)
        elif _starts_with_vowel(description):
            text = _fit_indefinite(text, description)
        text += placeholder_token + after
    return text


def append_description(before: str, description: str) -> str:
    """Return ``before + description`` with a single article; the prompt loses no word.

    This is the reverse of `fill_template`'s rule. Here the description itself is read, not rows that started from it,
    so the description gives up its article if the prompt has one.

    >>> append_description("a photo of a ", "a skull and bones mug")
    'a photo of a skull and bones mug'
    >>> append_description("two cats on the broken ", "a skull and bones mug")
    'two cats on the broken skull and bones mug'
    >>> append_description("a ", "an umbrella")
    'an umbrella'
    """
    own = _OWN_DETERMINER.match(description)
    if own and _DETERMINER_AT_END.search(before):
        description = description[own.end() :]
    return _fit_indefinite(before, description) + description


def _fit_indefinite(before: str, description: str) -> str:
    """Turn an ``a`` or ``an`` at the end of `before` into the form that `description` needs."""
    return _INDEFINITE_AT_END.sub(r"\1n\2" if _starts_with_vowel(description) else r"\1\2", before)


def _starts_with_vowel(description: str) -> bool:
    return description[:1].lower() in set("aeiou")


def check_templates(templates: tuple[str, ...]) -> tuple[str, ...]:
    """Return `templates` unchanged.

    Raises:
        ConfigError: There are no templates, or one does not have exactly one ``{}``.
    """
    if not templates:
        raise ConfigError("templates: expected at least one, got none; leave templates out to use the usual ones")
    for template in templates:
        if template.count("{}") != 1:
            raise ConfigError(f"templates: expected exactly one '{{}}' in each, got {template!r}")
    return templates
