"""What the Hub remembers: accounts, repositories, commits, files. No HTTP here."""

import hashlib
import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

Mode = Literal["regular", "lfs", "xet"]
Role = Literal["write", "read", "none"]

_SERIAL_NUMBERS = itertools.count()  # never repeats: clients cache by commit


class HubError(Exception):
    """An answer that is an error.

    Args:
        status: HTTP status.
        message: For people; sent in the body and as `X-Error-Message`.
        code: `X-Error-Code`, by which the client chooses the type of its exception.
        body: More fields of the answer's JSON.
        headers: More headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        body: dict[str, object] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.body = {"error": message} | (body or {})
        self.headers = headers or {}


@dataclass(frozen=True)
class Account:
    """Whom a token speaks for, and what the token may do: `none` may only see what is public."""

    name: str
    role: Role


@dataclass(frozen=True)
class Blob:
    """A file. `large`: kept outside git (lfs or xet); its `data` is None in xet mode."""

    oid: str
    sha256: str
    size: int
    large: bool = False
    data: bytes | None = None

    @classmethod
    def regular(cls, data: bytes) -> "Blob":
        return cls(_git_oid(data), hashlib.sha256(data).hexdigest(), len(data), data=data)

    @classmethod
    def outside_git(cls, sha256: str, size: int, data: bytes | None = None) -> "Blob":
        return cls(_git_oid(lfs_pointer(sha256, size)), sha256, size, large=True, data=data)

    @property
    def etag(self) -> str:
        """What the client compares its own copy with."""
        return self.sha256 if self.large else self.oid


@dataclass(frozen=True)
class Commit:
    """A state of all files, by path."""

    oid: str
    title: str
    description: str
    author: str
    files: dict[str, Blob]
    parent: str | None
    date: str


@dataclass
class Discussion:
    """A discussion or, with `base`, a pull request, whose commits are on ``refs/pr/<num>``."""

    num: int
    title: str
    description: str
    author: str
    base: str | None = None
    status: str = "open"

    @property
    def ref(self) -> str:
        return f"refs/pr/{self.num}"


@dataclass
class Repo:
    """A model repository; `refs` maps full names such as ``refs/heads/main`` to commit ids."""

    repo_id: str
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    discussions: list[Discussion] = field(default_factory=list)

    @property
    def namespace(self) -> str:
        return self.repo_id.split("/")[0]

    def ref_of(self, revision: str) -> str:
        """Return the full name of a revision that commits can be made on."""
        names = (revision, f"refs/heads/{revision}", "refs/heads/main" if revision == "HEAD" else "")
        for name in names:
            if name in self.refs and not name.startswith("refs/tags/"):
                return name
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def at(self, revision: str) -> Commit:
        """Return the commit that a branch, tag, ``refs/pr/N`` or (shortened) commit id stands for."""
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if name in self.refs:
                return self.commits[self.refs[name]]
        if revision == "HEAD":
            return self.at("main")
        for oid, commit in self.commits.items():
            if len(revision) >= 7 and oid.startswith(revision):
                return commit
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def history(self, revision: str = "main") -> list[Commit]:
        """Return the commits of a revision, latest first."""
        commits = [self.at(revision)]
        while (parent := commits[-1].parent) is not None:
            commits.append(self.commits[parent])
        return commits

    def add_commit(
        self, ref: str, files: dict[str, Blob], title: str, *, author: str, description: str = ""
    ) -> Commit:
        """Make a commit on a ref and move the ref there."""
        oid = hashlib.sha1(f"{self.repo_id} {next(_SERIAL_NUMBERS)} {title}".encode()).hexdigest()
        date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        commit = Commit(oid, title, description, author, files, self.refs.get(ref), date)
        self.commits[oid] = commit
        self.refs[ref] = oid
        return commit

    def open_discussion(
        self, title: str, description: str, author: str, *, base: str | None = None, start: str | None = None
    ) -> Discussion:
        """Open a discussion or, onto the ref `base`, a pull request that starts at a commit (`base`'s latest)."""
        discussion = Discussion(len(self.discussions) + 1, title, description, author, base)
        self.discussions.append(discussion)
        if base is not None:
            self.refs[discussion.ref] = start or self.refs[base]
        return discussion


@dataclass
class Store:
    """Everything the Hub remembers.

    Args:
        mode: How large files travel.
        cas_dir: Folder of the bytes of xet mode. It outlives `clear`, as do the caches that xet clients keep of it.
        large_from: Files of so many bytes are large, whatever their name.
        large_suffixes: Files whose names end so are large, whatever their size.
        accounts: By token.
        repos: By id.
        objects: Bytes of the large files of lfs mode, by SHA-256.
    """

    mode: Mode
    cas_dir: Path
    large_from: int = 10_000
    large_suffixes: tuple[str, ...] = (".safetensors", ".bin", ".pt")
    accounts: dict[str, Account] = field(default_factory=dict)
    repos: dict[str, Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)

    def is_large(self, path: str, size: int) -> bool:
        return self.mode != "regular" and (size >= self.large_from or path.endswith(self.large_suffixes))

    def new_blob(self, path: str, data: bytes) -> Blob:
        """Return a file that did not come through a client: large ones are served as in lfs mode."""
        if not self.is_large(path, len(data)):
            return Blob.regular(data)
        blob = Blob.outside_git(hashlib.sha256(data).hexdigest(), len(data), data)
        self.objects[blob.sha256] = data
        return blob

    def create_repo(self, repo_id: str, *, author: str, private: bool = False, gated: bool = False) -> Repo:
        """Create a repository with the file that all repositories start with."""
        repo = self.repos[repo_id] = Repo(repo_id, private, gated)
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in self.large_suffixes)
        repo.add_commit(
            "refs/heads/main", {".gitattributes": Blob.regular(attributes.encode())}, "initial commit", author=author
        )
        return repo


def lfs_pointer(sha256: str, size: int) -> bytes:
    """Return what git keeps in place of a large file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
