"""Accounts, repositories, branches and what is in them."""

import re
from typing import Any

import yaml

from .cards import card_data_of, check_card, tags_of
from .permissions import readable_repo, require_account, require_namespace, writable_repo
from .routing import API_REPO, REVISION, Answer, Call, Route
from .store import Blob, Commit, HubError, Repo
from .xet_store import find_xet_hashes

_NAME = re.compile(r"(?!.*(?:--|\.\.))\w(?:[\w.-]{0,94}\w)?", re.ASCII)


def whoami(call: Call) -> Answer:
    account = require_account(call)
    token = {"displayName": "test", "role": account.role}
    auth = {"type": "access_token", "accessToken": token}
    return Answer.of_json({"type": "user", "name": account.name, "orgs": [], "auth": auth})


def create_repo(call: Call) -> Answer:
    asked = call.json()
    namespace = asked.get("organization") or require_account(call).name
    require_namespace(call, namespace)
    if asked.get("type", "model") != "model" or not _NAME.fullmatch(asked["name"]):
        raise HubError(400, f"Invalid repo type or name: {asked}")
    repo_id = f"{namespace}/{asked['name']}"
    url = f"{call.hub_url}/{repo_id}"
    if repo_id in call.store.repos:
        raise HubError(409, f"You already created this model repo: {repo_id}", body={"url": url})
    call.store.create_repo(repo_id, author=namespace, private=asked.get("visibility") == "private")
    return Answer.of_json({"url": url, "name": repo_id})


def delete_repo(call: Call) -> Answer:
    asked = call.json()
    namespace = asked.get("organization") or require_account(call).name
    require_namespace(call, namespace)
    if call.store.repos.pop(f"{namespace}/{asked['name']}", None) is None:
        raise HubError(404, "Repository not found", "RepoNotFound")
    return Answer.of_json({})


def validate_yaml(call: Call) -> Answer:
    report = check_card(call.json()["content"])
    found = {
        "errors": [{"message": message} for message in report.errors],
        "warnings": [{"message": message} for message in report.warnings],
    }
    return Answer.of_json(found, 400 if report.errors else 200)


def describe_repo(call: Call) -> Answer:
    repo = readable_repo(call)
    commit = repo.at(call.arguments.get("revision") or "main")
    card_data = _card_data(commit)
    description = {
        "_id": "0" * 24,
        "id": repo.repo_id,
        "modelId": repo.repo_id,
        "author": repo.namespace,
        "sha": commit.oid,
        "lastModified": commit.date,
        "private": repo.private,
        "gated": "manual" if repo.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": tags_of(card_data),
        "cardData": card_data,
        "siblings": [{"rfilename": path} | _sibling(blob, call) for path, blob in sorted(commit.files.items())],
    }
    described = {key: card_data[key] for key in ("library_name", "pipeline_tag") if key in card_data}
    return Answer.of_json(description | described)


def list_tree(call: Call) -> Answer:
    commit = readable_repo(call).at(call.arguments["revision"])
    folder = call.arguments.get("folder", "").strip("/")
    inside = {path: blob for path, blob in commit.files.items() if not folder or path.startswith(f"{folder}/")}
    if folder and not inside:
        raise HubError(404, f"{folder} does not exist", "EntryNotFound")
    xet_hashes = find_xet_hashes(call.store.cas_dir)
    entries: dict[str, dict[str, Any]] = {}
    for path, blob in sorted(inside.items()):
        depth = folder.count("/") + 1 if folder else 0
        for parent in _parents(path)[depth:]:
            entries[parent] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": parent}
        entries[path] = _entry(path, blob, xet_hashes)
    start = f"{folder}/" if folder else ""
    recursive = call.asks_for("recursive")
    return Answer.of_json([entry for path, entry in entries.items() if recursive or "/" not in path[len(start) :]])


def list_commits(call: Call) -> Answer:
    history = readable_repo(call).history(call.arguments["revision"])
    return Answer.of_json(
        [
            {
                "id": commit.oid,
                "title": commit.title,
                "message": commit.description,
                "authors": [{"user": commit.author}],
                "date": commit.date,
            }
            for commit in history
        ]
    )


def list_refs(call: Call) -> Answer:
    repo = readable_repo(call)
    kinds = {"branches": "refs/heads/", "tags": "refs/tags/", "converts": "refs/convert/", "pullRequests": "refs/pr/"}
    return Answer.of_json({kind: _refs_under(repo, start) for kind, start in kinds.items()})


def create_branch(call: Call) -> Answer:
    repo = writable_repo(call)
    name = call.arguments["branch"]
    if name.startswith("refs/"):
        raise HubError(400, f"Invalid reference for a branch: {name}")
    if f"refs/heads/{name}" in repo.refs:
        raise HubError(409, f"Reference already exists: {name}")
    repo.refs[f"refs/heads/{name}"] = repo.at(call.json().get("startingPoint", "main")).oid
    return Answer.of_json({})


def delete_branch(call: Call) -> Answer:
    repo = writable_repo(call)
    name = f"refs/heads/{call.arguments['branch']}"
    if name == "refs/heads/main" or name not in repo.refs:
        raise HubError(403 if name in repo.refs else 404, f"Cannot delete {name}")
    del repo.refs[name]
    return Answer.of_json({})


def create_tag(call: Call) -> Answer:
    repo = writable_repo(call)
    name = f"refs/tags/{call.json()['tag']}"
    if name in repo.refs:
        raise HubError(409, f"Reference already exists: {name}")
    repo.refs[name] = repo.at(call.arguments["revision"]).oid
    return Answer.of_json({})


def _card_data(commit: Commit) -> dict[str, Any]:
    card = commit.files.get("README.md")
    try:
        data = card_data_of(card.data.decode()) if card is not None and card.data is not None else None
    except (yaml.YAMLError, UnicodeDecodeError):
        data = None
    return data if isinstance(data, dict) else {}


def _sibling(blob: Blob, call: Call) -> dict[str, Any]:
    if not call.asks_for("blobs"):
        return {}
    lfs = {"sha256": blob.sha256, "size": blob.size, "pointerSize": 130}
    return {"size": blob.size, "blobId": blob.oid} | ({"lfs": lfs} if blob.large else {})


def _entry(path: str, blob: Blob, xet_hashes: dict[str, str]) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "oid": blob.oid, "size": blob.size, "path": path}
    if blob.large:
        entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 130}
        if blob.sha256 in xet_hashes:
            entry["xetHash"] = xet_hashes[blob.sha256]
    return entry


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: index + 1]) for index in range(len(parts))]


def _refs_under(repo: Repo, start: str) -> list[dict[str, str]]:
    found = {ref: oid for ref, oid in repo.refs.items() if ref.startswith(start)}
    return [{"name": ref.removeprefix(start), "ref": ref, "targetCommit": oid} for ref, oid in found.items()]


ROUTES = (
    Route("GET", "/api/whoami-v2", whoami),
    Route("POST", "/api/repos/create", create_repo),
    Route("DELETE", "/api/repos/delete", delete_repo),
    Route("POST", "/api/validate-yaml", validate_yaml),
    Route("GET", API_REPO, describe_repo),
    Route("GET", rf"{API_REPO}/revision/{REVISION}", describe_repo),
    Route("GET", rf"{API_REPO}/tree/{REVISION}(?:/(?P<folder>.+))?", list_tree),
    Route("GET", rf"{API_REPO}/commits/{REVISION}", list_commits),
    Route("GET", rf"{API_REPO}/refs", list_refs),
    Route("POST", rf"{API_REPO}/branch/(?P<branch>[^/]+)", create_branch),
    Route("DELETE", rf"{API_REPO}/branch/(?P<branch>[^/]+)", delete_branch),
    Route("POST", rf"{API_REPO}/tag/{REVISION}", create_tag),
)
