"""What an upload asks for: how each file should travel, then the commit."""

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from .permissions import require_account, writable_repo, wrote_pull_request
from .routing import API_REPO, REVISION, Answer, Call, Route
from .store import Blob, Commit, Discussion, HubError, Repo, Store
from .xet_store import find_xet_hashes


def preupload(call: Call) -> Answer:
    """Say of each file how it should travel, and what the repository has under its name: unchanged ones stay home."""
    repo = writable_repo_at(call)
    head = repo.at(call.arguments["revision"])
    files = [_upload_mode(asked, call.store, head.files.get(asked["path"])) for asked in call.json()["files"]]
    return Answer.of_json({"files": files, "commitOid": head.oid})


def commit(call: Call) -> Answer:
    """Make a commit. As on the real Hub, one that changes nothing is a commit too: clients have to see to it."""
    repo = writable_repo_at(call)
    order = _CommitOrder.read(call.body)
    revision = call.arguments["revision"]
    ref, discussion = repo.ref_of(revision), None
    head = repo.commits[repo.refs[ref]]
    if call.asks_for("create_pr"):
        head = repo.at(order.parent) if order.parent else head
    elif order.parent and not head.oid.startswith(order.parent):
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    files = _apply(order.operations, head.files, call.store)
    author = require_account(call).name
    if call.asks_for("create_pr"):
        discussion = repo.open_discussion(order.title, order.description, author, base=ref, start=head.oid)
        ref = discussion.ref
    made = repo.add_commit(ref, files, order.title, author=author, description=order.description)
    return Answer.of_json(_receipt(call.hub_url, repo, made, discussion))


def writable_repo_at(call: Call) -> Repo:
    """Return the repository of an upload: its owner may write anywhere, others to their pull requests."""
    repo = call.store.repos.get(call.arguments["repo_id"])
    own = repo is not None and wrote_pull_request(call, repo, call.arguments.get("revision", ""))
    return writable_repo(call, opens_pull_request=own or call.asks_for("create_pr"))


@dataclass(frozen=True)
class _CommitOrder:
    """The body of a commit: a header, then one operation a line."""

    title: str
    description: str
    parent: str | None
    operations: list[tuple[str, dict[str, Any]]]

    @classmethod
    def read(cls, body: bytes) -> "_CommitOrder":
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        header = lines[0]["value"]
        operations = [(line["key"], line["value"]) for line in lines[1:]]
        return cls(header["summary"], header.get("description", ""), header.get("parentCommit"), operations)


def _upload_mode(asked: dict[str, Any], store: Store, present: Blob | None) -> dict[str, Any]:
    mode = "lfs" if store.is_large(asked["path"], asked["size"]) else "regular"
    known = {} if present is None else {"oid": present.etag}
    return {"path": asked["path"], "uploadMode": mode, "shouldIgnore": False} | known


def _apply(operations: list[tuple[str, dict[str, Any]]], before: dict[str, Blob], store: Store) -> dict[str, Blob]:
    """Return the files after a commit's operations."""
    files = dict(before)
    for key, value in operations:
        path = value["path"]
        if key == "file":
            files[path] = Blob.regular(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            files[path] = _large_file(path, value["oid"], value["size"], store)
        elif key == "deletedFile" and path in files:
            del files[path]
        elif key == "deletedFolder" and any(name.startswith(f"{path.rstrip('/')}/") for name in files):
            files = {name: blob for name, blob in files.items() if not name.startswith(f"{path.rstrip('/')}/")}
        else:
            raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
    return files


def _large_file(path: str, sha256: str, size: int, store: Store) -> Blob:
    """Return a file whose bytes came before the commit did, through lfs or xet."""
    if sha256 in store.objects:
        return Blob.outside_git(sha256, size, store.objects[sha256])
    if sha256 in find_xet_hashes(store.cas_dir):
        return Blob.outside_git(sha256, size)
    raise HubError(400, f"LFS pointer pointed to a file that does not exist: {path}")


def _receipt(hub_url: str, repo: Repo, made: Commit, discussion: Discussion | None) -> dict[str, Any]:
    receipt: dict[str, Any] = {
        "success": True,
        "commitOid": made.oid,
        "commitUrl": f"{hub_url}/{repo.repo_id}/commit/{made.oid}",
        "hookOutput": "",
    }
    if discussion is not None:
        receipt["pullRequestUrl"] = f"{hub_url}/{repo.repo_id}/discussions/{discussion.num}"
    return receipt


def lfs_batch(call: Call) -> Answer:
    """Say where to put the bytes of large files; those that are here already need not come."""
    repo = writable_repo(call, opens_pull_request=True)
    objects = []
    for asked in call.json()["objects"]:
        answer = {"oid": asked["oid"], "size": asked["size"], "authenticated": True}
        if asked["oid"] not in call.store.objects:
            upload = {"href": f"{call.storage_url}/objects/{asked['oid']}?signature=1", "header": {}}
            verify = {"href": f"{call.hub_url}/api/models/{repo.repo_id}/lfs-verify", "header": {}}
            answer["actions"] = {"upload": upload, "verify": verify}
        objects.append(answer)
    return Answer.of_json({"transfer": "basic", "objects": objects})


def lfs_put(call: Call) -> Answer:
    """Keep the bytes of a large file. As of the real storage, a signed URL and a token together are refused."""
    if call.headers.get("Authorization"):
        raise HubError(400, "InvalidArgument: only one auth mechanism allowed")
    if hashlib.sha256(call.body).hexdigest() != call.arguments["sha256"]:
        raise HubError(400, "BadDigest")
    call.store.objects[call.arguments["sha256"]] = call.body
    return Answer()


def lfs_verify(call: Call) -> Answer:
    writable_repo(call, opens_pull_request=True)
    asked = call.json()
    if len(call.store.objects.get(asked["oid"], b"")) != asked["size"]:
        raise HubError(404, "The object is missing, or of another size")
    return Answer.of_json({"message": "Object is OK"})


ROUTES = (
    Route("POST", rf"{API_REPO}/preupload/{REVISION}", preupload),
    Route("POST", rf"{API_REPO}/commit/{REVISION}", commit),
    Route("POST", r"/(?P<repo_id>[\w.-]+/[\w.-]+?)\.git/info/lfs/objects/batch", lfs_batch),
    Route("PUT", r"/objects/(?P<sha256>[0-9a-f]{64})", lfs_put, origin="storage"),
    Route("POST", rf"{API_REPO}/lfs-verify", lfs_verify),
)
