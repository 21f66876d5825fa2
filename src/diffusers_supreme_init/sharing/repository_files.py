"""The files of a repository on the Hub at one commit, and the library that they are."""

import hashlib
import logging
from pathlib import Path

from huggingface_hub import HfApi, RepoFile

from ..file_names import RECORD_NAME, WEIGHT_NAMES
from ..formats.embedding_file import read_embedding
from ..formats.library import LibraryEntry, library_entry, read_index

logger = logging.getLogger(__name__)


class RepositoryFiles:
    """The files of a repository at one commit.

    Attributes:
        files: ``{path: file}``.
    """

    def __init__(self, api: HfApi, repo_id: str, commit: str | None) -> None:
        self.repo_id = repo_id
        self._api, self._commit = api, commit
        tree = api.list_repo_tree(repo_id, recursive=True, revision=commit)
        self.files = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}

    def weights(self, prefix: str) -> tuple[str, ...]:
        """Return the names of the embedding files below a prefix such as ``""`` or ``"mug/"``."""
        return tuple(name for name in WEIGHT_NAMES if prefix + name in self.files)

    def holds(self, path: str, data: bytes) -> bool:
        """Whether the repository has a file with this path and content."""
        if (there := self.files.get(path)) is None:
            return False
        # The Hub lists hashes, so no file is downloaded: SHA-256 for LFS files, git's blob id for all others.
        if there.lfs is not None:
            return there.lfs.sha256 == hashlib.sha256(data).hexdigest()
        return there.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()

    def fetch(self, prefix: str, *names: str) -> Path:
        """Download those of `names` that exist below a prefix, and return their folder; at least one must exist."""
        paths = [
            Path(self._api.hf_hub_download(self.repo_id, prefix + name, revision=self._commit))
            for name in names
            if prefix + name in self.files
        ]
        return paths[0].parent

    def library(self) -> dict[str, LibraryEntry] | None:
        """Return ``{folder: entry}`` if the repository is a library, else None."""
        if RECORD_NAME not in self.files or self.weights(""):
            return None
        listed = read_index((self.fetch("", RECORD_NAME) / RECORD_NAME).read_bytes())
        if listed is None:
            return None
        there = {name: entry for name, entry in listed.items() if self.weights(f"{name}/")}
        if gone := [name for name in listed if name not in there]:
            logger.warning("%s: its index lists concepts that no longer exist: %s", self.repo_id, ", ".join(gone))
        return {name: entry or self._entry(name) for name, entry in there.items()}

    def _entry(self, name: str) -> LibraryEntry:
        weights = self.weights(f"{name}/")
        return library_entry(read_embedding(self.fetch(f"{name}/", weights[0]) / weights[0]), weights)
