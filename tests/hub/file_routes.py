"""How files are read, and the short-lived tokens of xet."""

import re
import time

from .commit_routes import writable_repo_at
from .permissions import downloadable_repo
from .routing import API_REPO, REPO, REVISION, Answer, Call, Route
from .store import Blob, HubError
from .xet_store import find_xet_hashes

_TOKEN_SECONDS = 3600


def resolve(call: Call) -> Answer:
    """Send a file, or say where it is: large ones are in the storage, which is another origin."""
    repo = downloadable_repo(call)
    commit = repo.at(call.arguments["revision"])
    blob = commit.files.get(call.arguments["path"])
    headers = {"X-Repo-Commit": commit.oid}
    if blob is None:
        raise HubError(404, "Entry not found", "EntryNotFound", headers=headers)
    if blob.large:
        return Answer(302, headers=headers | _where_large_file_is(call, blob, commit.oid))
    return _bytes_answer(call, blob.data or b"", headers | {"ETag": f'"{blob.oid}"'})


def get_object(call: Call) -> Answer:
    """Send a large file of lfs mode."""
    if call.headers.get("Authorization"):
        raise HubError(400, "InvalidArgument: only one auth mechanism allowed")
    data = call.store.objects.get(call.arguments["sha256"])
    if data is None:
        raise HubError(404, "NoSuchKey")
    return _bytes_answer(call, data, {"ETag": f'"{call.arguments["sha256"]}"'})


def xet_write_token(call: Call) -> Answer:
    writable_repo_at(call)
    return _xet_token(call)


def xet_read_token(call: Call) -> Answer:
    downloadable_repo(call)
    return _xet_token(call)


def _where_large_file_is(call: Call, blob: Blob, commit_oid: str) -> dict[str, str]:
    headers = {
        "X-Linked-ETag": f'"{blob.sha256}"',
        "X-Linked-Size": str(blob.size),
        "Location": f"{call.storage_url}/objects/{blob.sha256}?signature=1",
    }
    xet_hash = find_xet_hashes(call.store.cas_dir).get(blob.sha256) if blob.data is None else None
    if xet_hash is None:
        return headers
    token_url = f"{call.hub_url}/api/models/{call.arguments['repo_id']}/xet-read-token/{commit_oid}"
    return headers | {"X-Xet-Hash": xet_hash, "Link": f'<{token_url}>; rel="xet-auth"'}


def _bytes_answer(call: Call, data: bytes, headers: dict[str, str]) -> Answer:
    headers = headers | {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", call.headers.get("Range") or "")
    if asked is None:
        return Answer(200, data, headers)
    start, end = int(asked[1]), int(asked[2] or len(data) - 1)
    return Answer(206, data[start : end + 1], headers | {"Content-Range": f"bytes {start}-{end}/{len(data)}"})


def _xet_token(call: Call) -> Answer:
    cas_url, expires = f"local://{call.store.cas_dir}", int(time.time()) + _TOKEN_SECONDS
    headers = {
        "X-Xet-Cas-Url": cas_url,
        "X-Xet-Token-Expiration": str(expires),
        "X-Xet-Access-Token": "xet_token",
    }
    return Answer.of_json({"casUrl": cas_url, "exp": expires, "accessToken": "xet_token"}, headers=headers)


ROUTES = (
    Route("GET HEAD", rf"/{REPO}/resolve/{REVISION}/(?P<path>.+)", resolve),
    Route("GET HEAD", r"/objects/(?P<sha256>[0-9a-f]{64})", get_object, origin="storage"),
    Route("GET", rf"{API_REPO}/xet-write-token/{REVISION}", xet_write_token),
    Route("GET", rf"{API_REPO}/xet-read-token/{REVISION}", xet_read_token),
)
