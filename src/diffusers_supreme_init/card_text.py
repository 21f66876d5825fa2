"""A card that may have been edited -> the same card with a repository and a licence; nothing else changes."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from .errors import PublishError
from .model_card import CARD_NAME, SNIPPET_MARK, code_literal

LICENSE_NAMES = ("license", "license_name", "license_link")

_FRONT_MATTER = re.compile(r"\A---[ \t]*(\r?\n)(.*?)^---[ \t]*(?:\r?$)", re.DOTALL | re.MULTILINE)
_SNIPPET = re.compile(
    r"(load_(?:multitoken|textual)_inversion\()"
    r'"(?:[^"\\\n]|\\.)*"(?P<subfolder>, subfolder="(?:[^"\\\n]|\\.)*")?'
    rf"(?P<end>\)[ \t]*{re.escape(SNIPPET_MARK)})"
)


def read_card(data: bytes, where: str) -> str:
    """Return the text of a card that the Hub can read.

    Raises:
        PublishError: It is not UTF-8, or what is between its ``---`` lines is not YAML.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PublishError(f"expected {where} in UTF-8, got {error}; save it in UTF-8") from error
    if text.startswith("\ufeff"):
        raise PublishError(f"expected {where} in UTF-8, got it with a byte order mark; save it without")
    front_matter(text, where)
    return text


def front_matter(text: str, where: str = CARD_NAME) -> dict[str, Any]:
    """Return what a card says between its ``---`` lines, empty without them.

    Raises:
        PublishError: It is not a YAML mapping.
    """
    found = _FRONT_MATTER.match(text)
    try:
        data = yaml.safe_load(found[2]) if found else None
    except yaml.YAMLError as error:
        got = " ".join(str(error).split())
        raise PublishError(f"expected YAML between the --- lines of {where}, got {got}") from error
    if data is not None and not isinstance(data, dict):
        raise PublishError(f"expected names and values between the --- lines of {where}, got {str(data)[:60]!r}")
    return data or {}


def with_repository(text: str, repo_id: str, subfolder: str | None = None) -> str:
    """Return a card whose own snippets load from a repository: those that say so, by `SNIPPET_MARK`.

    Args:
        text: The card.
        repo_id: ``"user/name"``.
        subfolder: Where the concept is in the repository, ``""`` at its root; None: as the snippets say.
    """

    def renewed(found: re.Match[str]) -> str:
        given = f", subfolder={code_literal(subfolder)}" if subfolder else ""
        kept = found["subfolder"] or ""
        return f"{found[1]}{code_literal(repo_id)}{kept if subfolder is None else given}{found['end']}"

    return _SNIPPET.sub(renewed, text)


def with_license(text: str, fields: Mapping[str, str], where: str = CARD_NAME) -> str:
    """Return a card with this licence in place of any other, all other lines as they are.

    Args:
        text: The card.
        fields: ``license``, and for ``"other"`` also ``license_name`` and ``license_link``.
        where: Name of the card in messages.

    Raises:
        PublishError: The card's YAML is written so that a line cannot be exchanged.
    """
    before = front_matter(text, where)
    if {name: before[name] for name in LICENSE_NAMES if name in before} == dict(fields):
        return text
    found = _FRONT_MATTER.match(text)
    newline = found[1] if found else "\n"
    lines = "".join(
        yaml.safe_dump({name: value}, allow_unicode=True, width=10_000).rstrip("\n") + newline
        for name, value in fields.items()
    )
    if found is None:
        made = f"---{newline}{lines}---{newline}{text}"
    else:
        names = "|".join(LICENSE_NAMES)
        kept = re.sub(rf"^(?:{names})[ \t]*:.*\n(?:[ \t-].*\n)*", "", found[2], flags=re.MULTILINE)
        made = text[: found.start(2)] + lines + kept + text[found.end(2) :]
    expected = {name: value for name, value in before.items() if name not in LICENSE_NAMES} | dict(fields)
    try:
        is_as_expected = front_matter(made, where) == expected
    except PublishError:
        is_as_expected = False
    if not is_as_expected:
        raise PublishError(
            f"cannot write the licence into {where}; write {dict(fields)} between its --- lines yourself"
        )
    return made
