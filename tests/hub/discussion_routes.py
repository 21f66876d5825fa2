"""Discussions and pull requests."""

from typing import Any

from .permissions import readable_repo, require_account, writable_repo
from .routing import API_REPO, Answer, Call, Route
from .store import Discussion, HubError, Repo

_NUM = r"(?P<num>\d+)"


def open_discussion(call: Call) -> Answer:
    asked = call.json()
    is_pull_request = bool(asked["pullRequest"])
    repo = writable_repo(call, opens_pull_request=True)
    discussion = repo.open_discussion(
        asked["title"],
        asked["description"],
        require_account(call).name,
        base="refs/heads/main" if is_pull_request else None,
    )
    discussion.status = "draft" if is_pull_request else "open"
    return Answer.of_json({"num": discussion.num, "pullRequest": is_pull_request})


def list_discussions(call: Call) -> Answer:
    repo = readable_repo(call)
    listed = [_summary(repo, discussion) for discussion in repo.discussions]
    return Answer.of_json({"discussions": listed, "count": len(listed), "start": 0})


def describe_discussion(call: Call) -> Answer:
    repo = readable_repo(call)
    discussion = _find(repo, call)
    comment = {
        "id": f"{discussion.num:024x}",
        "type": "comment",
        "createdAt": _created(repo),
        "author": {"name": discussion.author},
        "data": {"edited": False, "hidden": False, "latest": {"raw": discussion.description}},
    }
    details: dict[str, Any] = {"events": [comment], "diff": "", "filesWithConflicts": []}
    if discussion.base is not None:
        details["changes"] = {"base": discussion.base}
    return Answer.of_json(_summary(repo, discussion) | details)


def merge(call: Call) -> Answer:
    """Merge a pull request: its files become those of the branch it was opened onto."""
    repo = writable_repo(call)
    discussion = _find(repo, call)
    if discussion.base is None or discussion.status == "merged":
        raise HubError(409, "There is nothing to merge")
    files = repo.at(discussion.base).files | repo.at(discussion.ref).files
    title = f"{discussion.title} (#{discussion.num})"
    repo.add_commit(discussion.base, files, title, author=require_account(call).name)
    discussion.status = "merged"
    return Answer.of_json({})


def _find(repo: Repo, call: Call) -> Discussion:
    number = int(call.arguments["num"])
    if not 1 <= number <= len(repo.discussions):
        raise HubError(404, "Discussion not found")
    return repo.discussions[number - 1]


def _created(repo: Repo) -> str:
    return repo.at("main").date


def _summary(repo: Repo, discussion: Discussion) -> dict[str, Any]:
    return {
        "num": discussion.num,
        "title": discussion.title,
        "author": {"name": discussion.author},
        "createdAt": _created(repo),
        "status": discussion.status,
        "isPullRequest": discussion.base is not None,
        "repo": {"name": repo.repo_id, "type": "model"},
    }


ROUTES = (
    Route("POST", rf"{API_REPO}/discussions", open_discussion),
    Route("GET", rf"{API_REPO}/discussions", list_discussions),
    Route("GET", rf"{API_REPO}/discussions/{_NUM}", describe_discussion),
    Route("POST", rf"{API_REPO}/discussions/{_NUM}/merge", merge),
)
