"""A saved folder -> the files to upload, with cards that name the repository and a licence."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi

from ..errors import PublishError, one_line
from ..file_names import CARD_NAME, RECORD_NAME, WEIGHT_NAMES
from ..formats.embedding_file import read_embedding
from ..formats.library import LibraryEntry, library_entry, read_index
from ..hub_connection import HUB_FAILURES, DeadlineError
from .card_editing import LICENSE_NAMES, front_matter, read_card, with_license, with_repository
from .saved_folder import publishable_files, publishable_folders

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Upload:
    """The files to publish.

    Attributes:
        folder: Where it was saved.
        contents: ``{name: bytes}``, names relative to the repository.
        prefixes: Where concepts are: ``""`` for the only one, else ``"mug/"`` and so on.
        local_names: ``{name: name relative to the folder}``; the merged card and index of a library have none.
        is_part: Whether it holds some of the concepts that are to be published, because there are many.
        has_packs: Whether the repository gets packs of all its concepts.
        stale: Files of the repository that nothing names any more.
    """

    folder: Path
    contents: Mapping[str, bytes]
    prefixes: tuple[str, ...]
    local_names: Mapping[str, str]
    is_part: bool = False
    has_packs: bool = False
    stale: tuple[str, ...] = ()

    def prefix_of(self, name: str) -> str | None:
        """Return the prefix of the concept that a file belongs to; None for files beside several concepts."""
        return next((prefix for prefix in (f"{name.partition('/')[0]}/", "") if prefix in self.prefixes), None)

    def weights(self, prefix: str) -> tuple[str, ...]:
        """Return the names of a concept's embedding files."""
        return tuple(name for name in WEIGHT_NAMES if prefix + name in self.contents)

    def entry(self, prefix: str) -> LibraryEntry:
        """Return a concept's entry in the index of a library."""
        weights = self.weights(prefix)
        return library_entry(read_embedding(self.folder / prefix / weights[0]), weights)

    def subfolder_of(self, card: str) -> str | None:
        """Return the folder of a card's concept, ``""`` for the only concept; None for the card of several."""
        parent = card.removesuffix(CARD_NAME)
        return parent.rstrip("/") if parent in self.prefixes else None


def read_upload(folder: Path) -> Upload:
    """Read the files of a saved folder that get published, and check that the Hub can read its cards.

    Raises:
        PublishError: The folder is not a saved one or cannot be read, or a card is not UTF-8 or not YAML.
    """
    try:
        contents = {name: (folder / name).read_bytes() for name in publishable_files(folder)}
        prefixes = ["" if one == folder else f"{one.name}/" for one in publishable_folders(folder)]
    except OSError as error:
        raise PublishError(f"cannot read {str(folder)!r}: {error}") from error
    for name in _cards(contents):
        read_card(contents[name], name)
    has_packs = any(entry.pack for entry in (read_index(contents.get(RECORD_NAME, b"")) or {}).values() if entry)
    return Upload(folder, contents, tuple(prefixes), {name: name for name in contents}, has_packs=has_packs)


def parts_of(upload: Upload, changed: Sequence[str], size: int) -> list[Upload]:
    """Divide an upload of many concepts into parts of at most so many; only the last one renews the packs.

    Args:
        upload: All concepts.
        changed: Prefixes of those that the repository does not hold yet.
        size: Most concepts of one part.
    """
    if len(changed) <= size:
        return [upload]
    parts = []
    for first in range(0, len(changed), size):
        prefixes = tuple(changed[first : first + size])
        own = set(prefixes)
        contents = {
            name: data
            for name, data in upload.contents.items()
            if (prefix := upload.prefix_of(name)) is None or prefix in own
        }
        is_last = first + size >= len(changed)
        parts.append(
            replace(
                upload,
                contents=contents,
                prefixes=prefixes,
                local_names={name: name for name in contents},
                is_part=True,
                has_packs=upload.has_packs and is_last,
            )
        )
    return parts


def with_complete_cards(api: HfApi, upload: Upload, repo_id: str, given_license: str | None) -> Upload:
    """Return the files with cards that name the repository and a licence.

    The licence is the given one, else the card's own, else that of the base model.

    Raises:
        PublishError: A card's YAML is written in a way that prevents adding a licence.
    """
    licenses: dict[str, dict[str, str]] = {}
    cards = {}
    for name in _cards(upload.contents):
        text = with_repository(read_card(upload.contents[name], name), repo_id, upload.subfolder_of(name))
        about = front_matter(text, name)
        base_model = about.get("base_model")
        fields = {"license": given_license} if given_license else {}
        if not fields and not about.get("license") and isinstance(base_model, str):
            if base_model not in licenses:
                licenses[base_model] = _license_of(api, base_model)
            fields = licenses[base_model]
        cards[name] = (with_license(text, fields, name) if fields else text).encode()
    return replace(upload, contents={**upload.contents, **cards})


def _cards(contents: Mapping[str, bytes]) -> list[str]:
    return [name for name in contents if PurePosixPath(name).name == CARD_NAME]


def _license_of(api: HfApi, base_model: str) -> dict[str, str]:
    """Return the licence of the base model as fields of the card; empty if it has none or the Hub does not answer."""
    try:
        card_data = api.model_info(base_model).card_data
    except HUB_FAILURES as error:
        if isinstance(error, DeadlineError):
            raise
        logger.warning(
            "the card gets no licence: that of %s is unknown, since the Hub failed (%s)", base_model, one_line(error)
        )
        return {}
    reported = {name: card_data.get(name) for name in LICENSE_NAMES} if card_data is not None else {}
    fields = {name: value for name, value in reported.items() if isinstance(value, str)}
    link = fields.get("license_link", "https://")
    if not link.startswith(("https://", "http://")):  # a file of the base model's repository
        fields["license_link"] = f"{api.endpoint}/{base_model}/blob/main/{link.removeprefix('./').lstrip('/')}"
    return fields if "license" in fields else {}
