"""A saved folder -> a repository on the Hub, in one commit or not at all."""

import functools
import json
import logging
import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile
from huggingface_hub.errors import LocalTokenNotFoundError, RevisionNotFoundError

from ..errors import OutputError, PublishError, one_line
from ..files import write_atomically
from ..hub_connection import HUB_FAILURES, DeadlineError, StillRunningError, check_repo_id, status_of, within
from ..inputs.paths import local_path
from .repository import MovedError, place_upload
from .repository_files import RepositoryFiles
from .saved_folder import is_optional, made_with_toybox
from .upload import Upload, parts_of, read_upload, with_complete_cards

logger = logging.getLogger(__name__)

_PAUSES = (1.0, 2.0, 4.0)
"""Seconds before each further attempt, on average; most requests are repeated by the client itself, but the commit is
not. Those who push at the same time and wait equally long would meet again, so each waits from half to one and a half
of it."""
CONCEPTS_PER_COMMIT = 300
"""Of a library; the Hub takes some thousand files in one commit."""
_TEMPORARY = (412, 429, 500, 502, 503, 504)
_ADVICE = {
    401: "log in with `hf auth login`, or pass token=",
    403: "pass a token= that may write there",
    404: "check the name and the revision",
    409: "somebody else is changing it; try again in a minute",
    412: "somebody else has pushed meanwhile; look at what they did",
}


@dataclass(frozen=True)
class Publication:
    """What `push_to_hub` did.

    Attributes:
        repo_id: The repository.
        url: Address of the repository or of the pull request.
        commit: The commit that holds the folder now; None for a pull request.
        is_new_commit: Whether this call made it; False if the repository already held the same files.
        files: The published files, relative to the repository.
    """

    repo_id: str
    url: str
    commit: str | None
    is_new_commit: bool
    files: tuple[str, ...]


def push_to_hub(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    revision: str | None = None,
    license: str | None = None,  # noqa: A002 - the card's own word
    overwrite: bool = False,
    allow_toybox: bool = False,
    timeout: float = 300.0,
) -> Publication:
    """Publish a folder that the trainer saved: embedding, card, settings and sample pictures, nothing else.

    ```python
    push_to_hub("out/mug", "user/mug")
    ```

    Everything goes into one commit, on top of the one that was the newest when the call began, so nothing is published
    partly or twice. A library of more than `CONCEPTS_PER_COMMIT` new concepts takes one commit for each so many; after
    each, the index lists what is there. If the connection breaks or the Hub fails temporarily, it is tried again.

    A repository of a single concept takes no other concept. A library takes any: its index and card then list the old
    and the new concepts, even if somebody else pushes to it at the same time.

    Args:
        folder: A folder that `save` wrote. After success its card names the repository and, if it had no licence, that
            of the base model, like the published card.
        repo_id: ``"user/name"``; created if it does not exist.
        private: Whether a new repository is private; None: the default of the user or organisation. If True, a public
            repository is refused.
        token: Access token; None: the one you are logged in with.
        commit_message: First line of the commit.
        create_pr: Open a pull request instead of committing.
        revision: Branch to commit to, created if it does not exist; None: ``main``.
        license: Licence that replaces the card's, e.g. ``"mit"``; None: the card's, else that of the base model.
        overwrite: Replace published concepts that have the same tokens but other rows. A resumed run always replaces
            what it published before.
        allow_toybox: Publish what was made with the toybox, which draws only toys; `private` has to be True.
        timeout: Seconds for the whole call; of a large library, for each commit.

    Raises:
        PublishError: The folder is not a saved concept; the repository holds another concept, or (without `overwrite`)
            other rows of the same; or the Hub refused or failed. The message says what is published and how to go on.
            The folder is unchanged in every case.
    """
    check_repo_id(repo_id)
    if create_pr and revision is not None:
        raise PublishError("expected create_pr or revision, got both: a pull request has a revision of its own")
    folder = local_path(folder)
    saved = read_upload(folder)
    if (of_toybox := made_with_toybox(saved.contents)) and not (allow_toybox and private):
        raise PublishError(
            f"{', '.join(of_toybox)}: made with the toybox, whose words no other model knows; to publish them all the "
            "same, pass private=True and allow_toybox=True"
        )
    api = HfApi(token=token)
    push = _Push(api, folder, repo_id, private, create_pr, revision, license, overwrite)

    def publish(part: Upload) -> Publication:
        return push.run(part, commit_message)

    try:
        upload = within(timeout, lambda: with_complete_cards(api, saved, repo_id, license))
        contents, publications = dict(upload.contents), []
        for part in within(timeout, lambda: push.parts(upload)):
            publications.append(within(timeout, functools.partial(publish, part)))
            contents |= {local: push.placed.contents[name] for name, local in push.placed.local_names.items()}
        publication = replace(
            publications[-1],
            is_new_commit=any(one.is_new_commit for one in publications),
            files=tuple(sorted({name for one in publications for name in one.files})),
        )
    except PublishError:
        raise
    except HUB_FAILURES as error:
        raise PublishError(push.explain(error)) from error
    for name, data in contents.items():
        if data != saved.contents[name]:
            try:
                write_atomically(folder / name, data)
            except OutputError as error:
                logger.warning("%s is published, but its card in the folder could not be updated: %s", repo_id, error)
    return publication


def check_can_push(
    repo_id: str, *, token: str | bool | None = None, create_pr: bool = False, timeout: float = 60.0
) -> None:
    """Check, before hours of training, that the logged-in user can push to a repository; nothing is created.

    If the Hub cannot be reached, this is only logged: it may be reachable later.

    Args:
        repo_id: ``"user/name"``.
        token: As in `push_to_hub`.
        create_pr: Whether a pull request is planned, which may be opened in other people's repositories.
        timeout: Seconds.

    Raises:
        PublishError: Nobody is logged in, or the user cannot push there.
    """
    check_repo_id(repo_id)
    try:
        account = within(timeout, HfApi(token=token).whoami)
    except HUB_FAILURES as error:
        is_nobody = isinstance(error, LocalTokenNotFoundError)
        if not is_nobody and status_of(error) not in (401, 403):
            logger.warning("the Hub did not report whether %s can be pushed to (%s)", repo_id, one_line(error))
            return
        raise PublishError(f"cannot push to {repo_id!r}: {one_line(error)}; {_ADVICE[401]}") from error
    role = account.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise PublishError(f"cannot push to {repo_id!r}: expected a token that may write, got one that may only read")
    owners = [account["name"], *(one["name"] for one in account.get("orgs", ()))]
    if repo_id.split("/")[0] not in owners and not create_pr:
        raise PublishError(
            f"cannot push to {repo_id!r}: expected a repository of {' or '.join(owners)}; choose one, log in as "
            "somebody else, or open a pull request (create_pr)"
        )


class _Push:
    """State of one call of `push_to_hub`: the repository, its files at the start, and the outcome so far."""

    def __init__(
        self,
        api: HfApi,
        folder: Path,
        repo_id: str,
        private: bool | None,
        create_pr: bool,
        revision: str | None,
        given_license: str | None,
        overwrite: bool,
    ) -> None:
        self.api, self.folder, self.repo_id = api, folder, repo_id
        self.private, self.create_pr, self.revision = private, create_pr, revision
        self.given_license, self.overwrite = given_license, overwrite
        self.state = "the repository is as it was"
        self.base: str | None = None  # the newest commit when the call began
        self.seen: Mapping[str, RepoFile] | None = None  # its files
        self.placed: Upload  # the files as they are in the repository
        self.may_have_landed = False

    def parts(self, upload: Upload) -> list[Upload]:
        """Divide a large library, leaving out what the repository holds already."""
        if len(upload.prefixes) <= CONCEPTS_PER_COMMIT or self.create_pr:
            return [upload]
        head = self._head() if self.api.repo_exists(self.repo_id) else None
        there = None if head is None else RepositoryFiles(self.api, self.repo_id, head)
        changed = {
            prefix
            for name, data in upload.contents.items()
            if (prefix := upload.prefix_of(name)) is not None and (there is None or not there.holds(name, data))
        }
        return parts_of(upload, [one for one in upload.prefixes if one in changed], CONCEPTS_PER_COMMIT)

    def run(self, upload: Upload, message: str | None) -> Publication:
        """Try until it succeeds, the Hub refuses, or it has failed too often."""
        for pause in _PAUSES:
            try:
                return self._attempt(upload, message)
            except HUB_FAILURES as error:
                # A pull request is not retried: if only the Hub's answer was lost, it would be opened twice.
                is_final = isinstance(error, DeadlineError | MovedError) or _is_refusal(error) or self.create_pr
                if is_final:
                    raise
                logger.warning("%s: pushing failed (%s); trying again", self.repo_id, one_line(error))
                time.sleep(pause * random.SystemRandom().uniform(0.5, 1.5))  # no seed is touched
        return self._attempt(upload, message)

    def explain(self, error: BaseException) -> str:
        """Say what failed, what is published now, and how to go on."""
        status = 412 if isinstance(error, MovedError) else status_of(error)
        advice = f"; {_ADVICE[status]}" if status in _ADVICE else ""
        landed = ", or holds the whole commit if only the answer was lost" if self.may_have_landed else ""
        if isinstance(error, StillRunningError):
            landed = f", or still gets the whole commit: {self._url()}/commits/{self.revision or 'main'} shows it"
        state = f"{self.state[0].upper()}{self.state[1:]}{landed}"
        return (
            f"cannot push to {self.repo_id!r}: {one_line(error)}{advice}. {state}; the folder "
            f"{str(self.folder)!r} is complete: push_to_hub({str(self.folder)!r}, {self.repo_id!r}) tries again"
        )

    def _attempt(self, upload: Upload, message: str | None) -> Publication:
        """Create the repository and the branch if they do not exist, and commit on top of the newest commit.

        No commit if nothing differs: the call is idempotent. If somebody else has committed since the call began, a
        library is merged with their commit; for a single concept the call fails.
        """
        self._make_place()
        head = self._head()
        there = RepositoryFiles(self.api, self.repo_id, head)
        if self.seen is None:
            self.base, self.seen = head, there.files
        self.placed = place_upload(
            upload, there, seen=self.seen, given_license=self.given_license, overwrite=self.overwrite
        )
        changes = _changes(self.placed, there)
        if not changes:
            return self._publication(head, is_new=head != self.base)
        if head != self.base and self.placed.prefixes == ("",):
            raise MovedError("a commit has been made since the call began")
        return self._commit(changes, head, message)

    def _make_place(self) -> None:
        if not self.api.repo_exists(self.repo_id):
            self.state = "the repository does not exist, or was made and is empty if only the answer was lost"
            self.api.create_repo(self.repo_id, private=self.private, exist_ok=True)
            self.state = "the repository was made and is empty"
        elif self.private and self.api.repo_info(self.repo_id).private is False:
            raise PublishError(
                f"cannot push to {self.repo_id!r}: expected a private repository, got a public one; make it private "
                "in its settings, choose another name, or leave private out"
            )
        if self.revision is not None and self._head() is None:
            self.api.create_branch(self.repo_id, branch=self.revision, exist_ok=True)

    def _head(self) -> str | None:
        try:
            return self.api.repo_info(self.repo_id, revision=self.revision).sha
        except RevisionNotFoundError:
            return None

    def _commit(
        self,
        changes: list[CommitOperationAdd | CommitOperationDelete],
        head: str | None,
        message: str | None,
    ) -> Publication:
        try:
            made = self.api.create_commit(
                self.repo_id,
                changes,
                commit_message=message or f"Add {self.repo_id.split('/')[-1]}",
                create_pr=self.create_pr,
                revision=self.revision,
                parent_commit=head,
            )
        except HUB_FAILURES as error:
            self.may_have_landed |= not _is_refusal(error) and status_of(error) != 412
            raise
        return self._publication(made.oid, is_new=True, url=made.pr_url)

    def _publication(self, commit: str | None, *, is_new: bool, url: str | None = None) -> Publication:
        files = tuple(sorted(self.placed.contents))
        return Publication(self.repo_id, url or self._url(), None if self.create_pr else commit, is_new, files)

    def _url(self) -> str:
        return f"{self.api.endpoint}/{self.repo_id}"


def _changes(upload: Upload, there: RepositoryFiles) -> list[CommitOperationAdd | CommitOperationDelete]:
    """Return the operations of a commit on top of `there`: add files that differ, delete our optional stale files."""
    contents = upload.contents
    gone = [
        path
        for path in there.files
        if path not in contents
        and (prefix := upload.prefix_of(path)) is not None
        and is_optional(path.removeprefix(prefix))
    ]
    gone += [path for path in upload.stale if path in there.files]
    return [
        *(CommitOperationAdd(name, data) for name, data in contents.items() if not there.holds(name, data)),
        *(CommitOperationDelete(path, is_folder=False) for path in gone),
    ]


def _is_refusal(error: BaseException) -> bool:
    """Whether the Hub refused, or the client before asking it (an invalid card), so that nothing was published."""
    status = status_of(error)
    if status is None:
        return isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError)
    return status not in _TEMPORARY
