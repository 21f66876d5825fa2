"""The Hub itself: two loopback ports, a log of every request, and faults on demand.

For example:

    with HubServer("xet") as server:
        server.add_fault(Fault("POST", "/commit/", 500))
        run_client(server, "import huggingface_hub; ...", mode="xet")
        assert server.statuses("POST", "/commit/") == [500, 200]
        assert sorted(server.files("user/mug")) == [".gitattributes", "learned_embeds.safetensors"]
"""

import re
import shutil
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from . import commit_routes, discussion_routes, file_routes, repo_routes
from .faults import Fault, FaultPlan
from .http_handler import Port, Request
from .routing import Answer, Call, Origin
from .store import Account, Blob, Commit, HubError, Mode, Repo, Store

ROUTES = (*repo_routes.ROUTES, *commit_routes.ROUTES, *discussion_routes.ROUTES, *file_routes.ROUTES)
WRITE_TOKEN, READ_TOKEN, POWERLESS_TOKEN, OTHER_TOKEN = "hf_write", "hf_read", "hf_none", "hf_other"
ACCOUNTS = {
    WRITE_TOKEN: Account("user", "write"),
    READ_TOKEN: Account("user", "read"),
    POWERLESS_TOKEN: Account("user", "none"),
    OTHER_TOKEN: Account("other", "write"),
}


class HubServer:
    """A Hub on loopback. It knows the user `user`, by three tokens that can do more or less, and the user `other`.

    Args:
        mode: How large files travel: ``regular`` has none, ``lfs`` is for clients without xet, ``xet`` for the rest.
    """

    def __init__(self, mode: Mode = "xet") -> None:
        self.requests: list[Request] = []
        self._faults = FaultPlan()
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._store = Store(mode, Path(tempfile.mkdtemp(prefix="hub_cas_")))
        self._ports: dict[Origin, Port] = {"hub": Port(self, "hub"), "storage": Port(self, "storage")}
        self.reset()

    def __enter__(self) -> Self:
        for port in self._ports.values():
            threading.Thread(target=port.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.set()
        for port in self._ports.values():
            port.shutdown()
            port.server_close()
        shutil.rmtree(self._store.cas_dir, ignore_errors=True)

    @property
    def url(self) -> str:
        """What `HF_ENDPOINT` should be."""
        return self._ports["hub"].url

    @property
    def mode(self) -> Mode:
        return self._store.mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._store.mode = mode

    def reset(self) -> None:
        """Forget everything but the mode: repositories, faults, requests, settings."""
        with self._lock:
            self._store = Store(self._store.mode, self._store.cas_dir)
            self._store.accounts |= ACCOUNTS
            self._faults.clear()
            self.requests.clear()

    def set_large(self, *, from_bytes: int, suffixes: tuple[str, ...] = ()) -> None:
        """Choose which files are large."""
        self._store.large_from, self._store.large_suffixes = from_bytes, suffixes

    def add_fault(self, fault: Fault) -> None:
        """Get something wrong; faults act in the order in which they were added."""
        self._faults.add(fault)

    def clear_faults(self) -> None:
        self._faults.clear()

    def create_repo(
        self, repo_id: str, files: dict[str, bytes] | None = None, *, private: bool = False, gated: bool = False
    ) -> Commit:
        """Create a repository without a client and return its latest commit."""
        with self._lock:
            repo = self._store.create_repo(repo_id, author=repo_id.split("/")[0], private=private, gated=gated)
            return self.add_commit(repo_id, files) if files else repo.at("main")

    def add_commit(self, repo_id: str, files: dict[str, bytes], *, title: str = "by someone else") -> Commit:
        """Change files of `main` without a client."""
        with self._lock:
            repo = self._store.repos[repo_id]
            blobs = {path: self._store.new_blob(path, data) for path, data in files.items()}
            return repo.add_commit("refs/heads/main", repo.at("main").files | blobs, title, author="someone")

    def repo(self, repo_id: str) -> Repo:
        """Return a repository; `KeyError` if there is none."""
        return self._store.repos[repo_id]

    def has_repo(self, repo_id: str) -> bool:
        return repo_id in self._store.repos

    def files(self, repo_id: str, revision: str = "main") -> dict[str, Blob]:
        """Return the files of a revision: sizes, hashes and, but for xet, bytes."""
        return self.repo(repo_id).at(revision).files

    def commits(self, repo_id: str, revision: str = "main") -> list[Commit]:
        """Return the commits of a revision, latest first; the last is the one that creating makes."""
        return self.repo(repo_id).history(revision)

    def statuses(self, method: str, path_pattern: str) -> list[int | None]:
        """Return the status of each request that matches, in order; None where no answer left."""
        found = [request for request in list(self.requests) if request.method == method]
        return [request.status for request in found if re.search(path_pattern, request.path)]

    def count(self, method: str, path_pattern: str) -> int:
        """Return the number of requests that match."""
        return len(self.statuses(method, path_pattern))

    # What the two ports ask for.

    def take_fault(self, method: str, path: str) -> Fault | None:
        return self._faults.take(method, path)

    def wait(self, seconds: float) -> None:
        """Wait, but not beyond the end of the server."""
        self._closing.wait(seconds)

    def log(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)

    def answer(self, origin: Origin, method: str, raw_path: str, **parts: Any) -> Answer:
        """Answer a request: the parts are the `query`, `headers` and `body` of a `Call`."""
        parts |= {"hub_url": self.url, "storage_url": self._ports["storage"].url}
        with self._lock:
            try:
                for route in ROUTES:
                    arguments = route.match(origin, method, raw_path)
                    if arguments is not None:
                        return route.answer(Call(self._store, arguments, **parts))
                raise HubError(404, f"No such route: {method} {raw_path}")
            except HubError as error:
                return Answer.of_error(error)
