"""Files to publish and files of a repository -> the paths there, and the merged index and card.

The rule is that of folders, see `overwriting`. A single concept goes to the root of a repository or, if the repository
is a library, into a folder of its own. The index and the card of a library list both its old and its new concepts.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace

from huggingface_hub import RepoFile

from ..errors import OutputError, PublishError
from ..file_names import CARD_NAME, RECORD_NAME, folder_name
from ..formats.library import LibraryEntry, index_bytes
from ..triggers import folded
from .card_editing import LICENSE_NAMES, front_matter, read_card, with_license, with_repository
from .model_card import LIBRARY_MARKS, library_card
from .overwriting import check_replaces, read_saved_concept
from .packing import with_packs
from .repository_files import RepositoryFiles
from .upload import Upload

logger = logging.getLogger(__name__)


class MovedError(OSError):
    """Raised if somebody else has committed since the call began."""


def place_upload(
    upload: Upload,
    there: RepositoryFiles,
    *,
    seen: Mapping[str, RepoFile],
    given_license: str | None,
    overwrite: bool,
) -> Upload:
    """Return the files as they go to a repository, under their names there.

    Args:
        upload: The files to publish, with complete cards.
        there: The repository now.
        seen: The repository's files when the call began; `overwrite` applies only to these.
        given_license: Licence that replaces that of the cards; None: keep theirs.
        overwrite: Whether to replace concepts of the same tokens.

    Raises:
        PublishError: The repository holds a single other concept, or one of these with other rows.
        MovedError: Somebody else has pushed one of these concepts since the call began.
    """
    is_single = upload.prefixes == ("",)
    if there.weights("") and not is_single:
        raise PublishError(
            f"expected a repository for several concepts, got {there.repo_id!r} with one; choose another"
        )
    library = there.library()
    if library is None and is_single:
        _check(upload, "", "", there, seen, overwrite=overwrite)
        return upload
    library = library or {}
    targets = _targets(upload, library)
    for prefix, target in targets.items():
        _check(upload, prefix, target, there, seen, overwrite=overwrite)
    is_all = not is_single and set(library) <= {prefix.rstrip("/") for prefix in targets} == _folders(targets)
    if is_all and not (upload.is_part or upload.has_packs):
        return upload  # nothing to merge with, so the card stays as it is, with the user's edits
    ours = {target.rstrip("/"): upload.entry(prefix) for prefix, target in targets.items()}
    placed = _moved(upload, targets, there.repo_id)
    entries = {**library, **ours}
    packs: dict[str, bytes] = {}
    if upload.has_packs or (not upload.is_part and any(entry.pack for entry in library.values())):
        entries, packs, stale = with_packs(dict(sorted(entries.items())), placed, there)
        placed = replace(placed, stale=tuple(stale))
    card = _merged_card(upload, there, entries, given_license)
    own = {CARD_NAME: card.encode(), RECORD_NAME: index_bytes(entries), **packs}
    return replace(placed, contents={**placed.contents, **own})


def _folders(targets: Mapping[str, str]) -> set[str]:
    return {target.rstrip("/") for target in targets.values()}


def _targets(upload: Upload, library: Mapping[str, LibraryEntry]) -> dict[str, str]:
    """Return the target of each concept, ``{prefix here: prefix there}``: its existing folder there, if it has one."""
    held = {folded(entry.placeholder_token): name for name, entry in library.items()}
    targets = {}
    for prefix in upload.prefixes:
        token = upload.entry(prefix).placeholder_token
        own = prefix.rstrip("/")
        name = held.get(folded(token)) or (own if own and own not in library else folder_name(token))
        targets[prefix] = f"{name}/"
    return targets


def _check(
    upload: Upload,
    prefix: str,
    target: str,
    there: RepositoryFiles,
    seen: Mapping[str, RepoFile],
    *,
    overwrite: bool,
) -> None:
    """Check that a concept may be written below a prefix of the repository."""
    old_names, new_names = there.weights(target), upload.weights(prefix)
    is_same = old_names == new_names and all(
        there.holds(target + name, upload.contents[prefix + name]) for name in new_names
    )
    if not old_names or is_same:
        return
    old = read_saved_concept(there.fetch(target, *old_names, RECORD_NAME), old_names)
    new = read_saved_concept(upload.folder / prefix, new_names)
    if old is None or new is None:
        return
    try:
        check_replaces(old, new, there.repo_id + (f"/{target}" if target else ""), overwrite=overwrite)
    except OutputError as error:
        raise PublishError(f"cannot push to {there.repo_id!r}: {error}") from error
    paths = [target + name for name in old_names]
    if any(path not in seen or seen[path].blob_id != there.files[path].blob_id for path in paths):
        raise MovedError(f"{old.placeholder_token} has been pushed since the call began")


def _moved(upload: Upload, targets: Mapping[str, str], repo_id: str) -> Upload:
    """Return the concepts' files under their target prefixes; files outside concept folders are left out."""
    contents, local_names = {}, {}
    for prefix, target in targets.items():
        for name in [name for name in upload.contents if upload.prefix_of(name) == prefix]:
            moved = target + name.removeprefix(prefix)
            contents[moved], local_names[moved] = upload.contents[name], name
        card = read_card(contents[f"{target}{CARD_NAME}"], CARD_NAME)
        contents[f"{target}{CARD_NAME}"] = with_repository(card, repo_id, target.rstrip("/")).encode()
    return replace(upload, contents=contents, prefixes=tuple(targets.values()), local_names=local_names)


def _merged_card(
    upload: Upload, there: RepositoryFiles, entries: Mapping[str, LibraryEntry], given_license: str | None
) -> str:
    """Return a card that lists all concepts: the repository's if it is ours, else the local folder's, updated."""
    own = read_card(upload.contents[CARD_NAME], CARD_NAME)
    theirs = ""
    if CARD_NAME in there.files:
        theirs = read_card((there.fetch("", CARD_NAME) / CARD_NAME).read_bytes(), f"{CARD_NAME} of {there.repo_id}")
    before = next((text for text in (theirs, own) if LIBRARY_MARKS[0] in text), None)
    card = with_repository(library_card(entries, before), there.repo_id)
    fields = {"license": given_license} if given_license else {}
    if not fields and "license" not in front_matter(card):
        fields = {name: value for name, value in front_matter(own).items() if name in LICENSE_NAMES}
    return with_license(card, fields) if fields else card
