"""A card -> the same card with another repository, licence or field; the user may have edited it.

The YAML between the ``---`` lines and the marked lines of snippets are changed line by line; all others stay as is.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ..errors import PublishError
from ..file_names import CARD_NAME

LICENSE_NAMES = ("license", "license_name", "license_link")

SNIPPET_MARK = "# this folder or repository"
"""Marks the snippet lines of a card into which publishing writes the repository; other lines are the user's."""

_SNIPPET = re.compile(
    r"(load_(?:multitoken|textual)_inversion\()"
    r'"(?:[^"\\\n]|\\.)*"(?P<subfolder>, subfolder="(?:[^"\\\n]|\\.)*")?'
    rf"(?P<end>\)[ \t]*{re.escape(SNIPPET_MARK)})"
)
_FRONT_MATTER = re.compile(r"\A---[ \t]*(\r?\n)(.*?)^---[ \t]*(?:\r?$)", re.DOTALL | re.MULTILINE)


def read_card(data: bytes, where: str) -> str:
    """Return the text of a card that the Hub can read.

    Raises:
        PublishError: The card is not UTF-8, or the text between its ``---`` lines is not YAML.
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
    """Return the fields between the ``---`` lines of a card; empty without such lines.

    Raises:
        PublishError: The text between the lines is not a YAML mapping.
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


def with_fields(text: str, fields: Mapping[str, str], names: Sequence[str], where: str = CARD_NAME) -> str:
    """Return a card with `fields` in place of all fields in `names`; other lines stay as they are.

    Raises:
        PublishError: The card's YAML is written in a way that prevents replacing single lines.
    """
    before = front_matter(text, where)
    if {name: before[name] for name in names if name in before} == dict(fields):
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
        kept = re.sub(rf"^(?:{'|'.join(names)})[ \t]*:.*\n(?:[ \t-].*\n)*", "", found[2], flags=re.MULTILINE)
        made = text[: found.start(2)] + lines + kept + text[found.end(2) :]
    # The regular expression does not know YAML (flow mappings, comments, anchors), so the result is read and compared.
    expected = {name: value for name, value in before.items() if name not in names} | dict(fields)
    try:
        is_as_expected = front_matter(made, where) == expected
    except PublishError:
        is_as_expected = False
    if not is_as_expected:
        wanted = dict(fields) or f"no {' and no '.join(names)}"
        raise PublishError(f"cannot write into {where}; write {wanted} between its --- lines yourself")
    return made


def with_repository(text: str, repo_id: str, subfolder: str | None = None) -> str:
    """Return a card whose snippets load from a repository; only lines with `SNIPPET_MARK` are changed.

    Args:
        text: The card.
        repo_id: ``"user/name"``.
        subfolder: Folder of the concept in the repository, ``""`` for its root; None: as in the snippets.
    """

    def renewed(found: re.Match[str]) -> str:
        given = f", subfolder={code_literal(subfolder)}" if subfolder else ""
        kept = found["subfolder"] or ""
        return f"{found[1]}{code_literal(repo_id)}{kept if subfolder is None else given}{found['end']}"

    return _SNIPPET.sub(renewed, text)


def with_license(text: str, fields: Mapping[str, str], where: str = CARD_NAME) -> str:
    """Return a card with this licence in place of any other; other lines stay as they are.

    Args:
        text: The card.
        fields: ``license``, and for ``"other"`` also ``license_name`` and ``license_link``.
        where: Name of the card in messages.

    Raises:
        PublishError: The card's YAML is written in a way that prevents replacing single lines.
    """
    return with_fields(text, fields, LICENSE_NAMES, where)


def code_literal(text: str) -> str:
    """Return a text as a Python literal in double quotes, on one line."""
    return json.dumps(text, ensure_ascii=False)
