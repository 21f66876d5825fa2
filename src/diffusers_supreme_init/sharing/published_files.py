"""A saved folder and the Hub's word on its base model -> the files that are published, cards completed.

A card may have been edited: it gets a repository and a licence, and nothing else in it changes.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi

from ..errors import PublishError
from ..files import CARD_NAME, WEIGHT_NAMES
from ..formats.embedding_file import read_embedding
from ..formats.library import LibraryEntry, library_entry
from ..hub_connection import HUB_FAILURES, DeadlineError, one_line
from .front_matter import front_matter, with_fields
from .model_card import SNIPPET_MARK, code_literal
from .saved_folder import concept_folders, publishable_files

logger = logging.getLogger(__name__)


LICENSE_NAMES = ("license", "license_name", "license_link")

_SNIPPET = re.compile(
    r"(load_(?:multitoken|textual)_inversion\()"
    r'"(?:[^"\\\n]|\\.)*"(?P<subfolder>, subfolder="(?:[^"\\\n]|\\.)*")?'
    rf"(?P<end>\)[ \t]*{re.escape(SNIPPET_MARK)})"
)


@dataclass(frozen=True)
class PublishedFiles:
    """What goes to the Hub.

    Attributes:
        folder: Where it was saved.
        contents: ``{name: bytes}``, names relative to the repository.
        prefixes: Where concepts are: ``""`` for the only one, else ``"mug/"`` and so on.
        local_names: ``{name: name relative to the folder}``; a library that is merged has others beside its concepts.
    """

    folder: Path
    contents: Mapping[str, bytes]
    prefixes: tuple[str, ...]
    local_names: Mapping[str, str]

    def prefix_of(self, name: str) -> str | None:
        """Return the prefix of the concept that a file belongs to; None for what lies beside several."""
        return next((prefix for prefix in (f"{name.partition('/')[0]}/", "") if prefix in self.prefixes), None)

    def weights(self, prefix: str) -> tuple[str, ...]:
        """Return the names of a concept's embedding files."""
        return tuple(name for name in WEIGHT_NAMES if prefix + name in self.contents)

    def entry(self, prefix: str) -> LibraryEntry:
        """Return what the index of a library says of a concept."""
        weights = self.weights(prefix)
        return library_entry(read_embedding(self.folder / prefix / weights[0]), weights)

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
    return PublishedFiles(folder, contents, tuple(prefixes), {name: name for name in contents})


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
    return with_fields(text, fields, LICENSE_NAMES, where)


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
