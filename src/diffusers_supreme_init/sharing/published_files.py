"""A saved folder and the Hub's word on its base model -> the files that are published, cards completed.

A card may have been edited: it gets a repository and a licence, and nothing else in it changes.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from huggingface_hub import HfApi

from ..errors import PublishError
from ..files import CARD_NAME
from ..hub_connection import HUB_FAILURES, DeadlineError, one_line
from .model_card import SNIPPET_MARK, code_literal
from .saved_folder import concept_folders, publishable_files

logger = logging.getLogger(__name__)


LICENSE_NAMES = ("license", "license_name", "license_link")

_FRONT_MATTER = re.compile(r"\A---[ \t]*(\r?\n)(.*?)^---[ \t]*(?:\r?$)", re.DOTALL | re.MULTILINE)
_SNIPPET = re.compile(
    r"(load_(?:multitoken|textual)_inversion\()"
    r'"(?:[^"\\\n]|\\.)*"(?P<subfolder>, subfolder="(?:[^"\\\n]|\\.)*")?'
    rf"(?P<end>\)[ \t]*{re.escape(SNIPPET_MARK)})"
)


@dataclass(frozen=True)
class PublishedFiles:
    """What goes to the Hub.

    Attributes:
        contents: ``{name: bytes}``, names relative to the folder and to the repository alike.
        prefixes: Where concepts are: ``""`` for the only one, else ``"mug/"`` and so on.
    """

    contents: Mapping[str, bytes]
    prefixes: tuple[str, ...]

    def subfolder_of(self, card: str) -> str | None:
        """Return the concept's folder of a card, ``""`` for the only one; None for the card of several."""
        parent = card.removesuffix(CARD_NAME)
        return parent.rstrip("/") if parent in self.prefixes else None


def read_published_files(folder: Path) -> PublishedFiles:
    """Read what is published of a saved folder, and check that the Hub can read its cards.

    Raises:
        PublishError: It is no saved folder, or cannot be read, or a card is not UTF-8 or not YAML.
    """
    try:
        contents = {name: (folder / name).read_bytes() for name in publishable_files(folder)}
        prefixes = ["" if one == folder else f"{one.name}/" for one in concept_folders(folder)]
    except OSError as error:
        raise PublishError(f"cannot read {str(folder)!r}: {error}") from error
    for name in _cards(contents):
        read_card(contents[name], name)
    return PublishedFiles(contents, tuple(prefixes))


def with_complete_cards(api: HfApi, files: PublishedFiles, repo_id: str, given_license: str | None) -> PublishedFiles:
    """Return the files with cards that name the repository and a licence: the given one, their own, or the base's.

    Raises:
        PublishError: A card is written so that no licence can be put into it.
    """
    licenses: dict[str, dict[str, str]] = {}
    cards = {}
    for name in _cards(files.contents):
        text = with_repository(read_card(files.contents[name], name), repo_id, files.subfolder_of(name))
        about = front_matter(text, name)
        base_model = about.get("base_model")
        fields = {"license": given_license} if given_license else {}
        if not fields and not about.get("license") and isinstance(base_model, str):
            if base_model not in licenses:
                licenses[base_model] = _license_of(api, base_model)
            fields = licenses[base_model]
        cards[name] = (with_license(text, fields, name) if fields else text).encode()
    return replace(files, contents={**files.contents, **cards})


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


def _cards(contents: Mapping[str, bytes]) -> list[str]:
    return [name for name in contents if PurePosixPath(name).name == CARD_NAME]


def _license_of(api: HfApi, base_model: str) -> dict[str, str]:
    """Return the licence of the base model as the card's fields, empty if it has none or cannot be asked."""
    try:
        card_data = api.model_info(base_model).card_data
    except HUB_FAILURES as error:
        if isinstance(error, DeadlineError):
            raise
        logger.warning("the card gets no licence: the Hub does not tell that of %s (%s)", base_model, one_line(error))
        return {}
    told = {name: card_data.get(name) for name in LICENSE_NAMES} if card_data is not None else {}
    fields = {name: value for name, value in told.items() if isinstance(value, str)}
    link = fields.get("license_link", "https://")
    if not link.startswith(("https://", "http://")):  # a file of the base model's repository
        fields["license_link"] = f"{api.endpoint}/{base_model}/blob/main/{link.removeprefix('./').lstrip('/')}"
    return fields if "license" in fields else {}
