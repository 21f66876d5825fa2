"""The YAML between the ``---`` lines of a card; it is changed line by line, so the user's other lines stay as is."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ..errors import PublishError
from ..files import CARD_NAME

_FRONT_MATTER = re.compile(r"\A---[ \t]*(\r?\n)(.*?)^---[ \t]*(?:\r?$)", re.DOTALL | re.MULTILINE)


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
