"""Who may do what, and what the others are told."""

from .routing import Call
from .store import Account, HubError, Repo


def find_account(call: Call) -> Account | None:
    """Return whom the request's token speaks for, None without a token."""
    header = call.headers.get("Authorization")
    if not header:
        return None
    account = call.store.accounts.get(header.removeprefix("Bearer "))
    if account is None:
        raise HubError(401, "Invalid credentials in Authorization header")
    return account


def require_account(call: Call) -> Account:
    """Return whom the request's token speaks for."""
    account = find_account(call)
    if account is None:
        raise HubError(401, "Invalid username or password.")
    return account


def readable_repo(call: Call) -> Repo:
    """Return the repository of a path, if the request may know of it: others are told that there is none."""
    account = find_account(call)
    repo = call.store.repos.get(call.arguments["repo_id"])
    if repo is None or (repo.private and not _owns(account, repo)):
        raise HubError(401 if account is None else 404, "Repository not found", "RepoNotFound")
    return repo


def downloadable_repo(call: Call) -> Repo:
    """Return the repository of a path, if the request may have its files: gated ones are only described."""
    repo = readable_repo(call)
    account = find_account(call)
    if repo.gated and not _owns(account, repo):
        wanted = "be authenticated" if account is None else "be in the authorized list"
        message = f"Access to model {repo.repo_id} is restricted. You must {wanted} to access it."
        raise HubError(401 if account is None else 403, message, "GatedRepo")
    return repo


def writable_repo(call: Call, *, opens_pull_request: bool = False) -> Repo:
    """Return the repository of a path, if the request may write to it; pull requests are open to all who can write."""
    repo = readable_repo(call)
    account = require_account(call)
    if account.role != "write":
        raise HubError(403, "Forbidden: you must use a write token to upload to a repository.")
    if not opens_pull_request and not _owns(account, repo):
        raise HubError(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
    return repo


def require_namespace(call: Call, namespace: str) -> None:
    """Refuse those who may not create or delete repositories of a user."""
    account = require_account(call)
    if account.role != "write" or account.name != namespace:
        raise HubError(403, f'You don\'t have the rights to create a model under the namespace "{namespace}"')


def wrote_pull_request(call: Call, repo: Repo, revision: str) -> bool:
    """Whether a revision is a pull request of the account that asks."""
    account = find_account(call)
    return account is not None and any(
        revision == discussion.ref and discussion.author == account.name for discussion in repo.discussions
    )


def _owns(account: Account | None, repo: Repo) -> bool:
    return account is not None and account.role != "none" and account.name == repo.namespace
