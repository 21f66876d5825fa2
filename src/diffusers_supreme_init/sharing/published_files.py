"""A saved folder and the Hub's word on its base model -> the files that are published, cards completed."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi

from ..card_text import LICENSE_NAMES, front_matter, read_card, with_license, with_repository
from ..errors import PublishError
from ..hub_connection import HUB_FAILURES, DeadlineError, one_line
from ..model_card import CARD_NAME
from ..saved_folder import concept_folders, publishable_files

logger = logging.getLogger(__name__)


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
