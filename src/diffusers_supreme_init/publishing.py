"""A saved folder -> a repository on the Hub, in one commit or not at all."""

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import RevisionNotFoundError

from .embedding_file import WEIGHT_NAMES
from .errors import PublishError
from .files import write_atomically
from .hub_connection import HUB_FAILURES, DeadlineError, deadline, one_line, status_of
from .model_card import CARD_NAME

logger = logging.getLogger(__name__)

PUBLISHED_PATTERNS = (*WEIGHT_NAMES, CARD_NAME, "training.json", "evaluation.json", "images/*.png", "pictures/*.png")
"""What of a concept's folder is published; checkpoints, logs, previews, caches and anything else never are."""

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
        url: Of the repository, or of the pull request.
        commit: The commit that holds the folder now; None for a pull request.
        is_new_commit: Whether this call made it; False where the repository already held the same files.
        files: What is published, relative to the folder.
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
    timeout: float = 300.0,
) -> Publication:
    """Publish a folder that the trainer saved: embedding, card, settings and sample pictures, nothing else.

    ```python
    push_to_hub("out/mug", "user/mug")
    ```

    Everything goes into one commit, on top of the one that was the newest when the call began, so that nothing is ever
    published in half or twice. Where the connection breaks or the Hub stumbles, the call is made once more.

    Args:
        folder: As `save` wrote it; its card gets the name of the repository and, if it has none, the licence of the
            base model.
        repo_id: ``"user/name"``; created if it does not exist.
        private: Whether a new repository is private; None: the default of the user or organisation.
        token: Access token; None: the one you are logged in with.
        commit_message: First line of the commit.
        create_pr: Open a pull request instead of committing.
        revision: Branch to commit to, made if it does not exist; None: ``main``.
        license: Licence of the card, e.g. ``"mit"``; None: that of the base model, or none if it is not known.
        timeout: Seconds for everything.

    Raises:
        PublishError: The folder is not a saved concept, or the Hub refused or failed; the message says what is
            published, and how to go on. The folder is whole in every case.
    """
    folder = Path(folder)
    files = publishable_files(folder)
    if create_pr and revision is not None:
        raise PublishError("expected create_pr or revision, got both: a pull request has a revision of its own")
    api = HfApi(token=token)
    push = _Push(api, folder, files, repo_id, private, create_pr, revision)
    try:
        with deadline(timeout):
            fields = {"license": license} if license else _inherited_license(api, folder)
            _complete_cards(folder, files, repo_id, fields)
            try:
                return push.run(commit_message)
            except HUB_FAILURES as error:
                # A pull request that was opened before the answer got lost would be opened again.
                if create_pr or isinstance(error, DeadlineError) or status_of(error) not in (None, *_TEMPORARY):
                    raise
                logger.warning("%s: pushing failed (%s); trying once more", repo_id, one_line(error))
                return push.run(commit_message)
    except HUB_FAILURES as error:
        raise PublishError(push.explain(error)) from error


def publishable_files(folder: Path) -> list[str]:
    """Return what of a saved folder is published, relative to it: one concept, or one in each of its folders.

    Raises:
        PublishError: There is no embedding, or no card.
    """
    folders = [folder] if any((folder / name).is_file() for name in WEIGHT_NAMES) else _concept_folders(folder)
    if not folders:
        raise PublishError(
            f"expected a folder that save() wrote, got {str(folder)!r}, which holds no {WEIGHT_NAMES[0]}"
        )
    found = {path for one in folders for pattern in PUBLISHED_PATTERNS for path in one.glob(pattern) if path.is_file()}
    if not (folder / CARD_NAME).is_file():
        raise PublishError(f"expected {CARD_NAME} in {str(folder)!r}, got none; save the concept again")
    found.add(folder / CARD_NAME)
    return sorted(path.relative_to(folder).as_posix() for path in found)


def card_for(text: str, repo_id: str, license_fields: Mapping[str, str] | None = None) -> str:
    """Return a card whose snippets load from a repository, with a licence if it had none; nothing else changes.

    Args:
        text: The card, front matter included.
        repo_id: ``"user/name"``.
        license_fields: ``license``, and for ``"other"`` also ``license_name`` and ``license_link``.
    """
    text = re.sub(r'(load_(?:multitoken|textual)_inversion\(")[^"]*(")', rf"\g<1>{repo_id}\g<2>", text)
    card = _parsed(text)
    if not license_fields or card.data.get("license"):
        return text
    for name, value in license_fields.items():
        card.data[name] = value
    return str(card)


class _Push:
    """One call of `push_to_hub`."""

    def __init__(
        self,
        api: HfApi,
        folder: Path,
        files: list[str],
        repo_id: str,
        private: bool | None,
        create_pr: bool,
        revision: str | None,
    ) -> None:
        self.api, self.folder, self.files, self.repo_id = api, folder, files, repo_id
        self.private, self.create_pr, self.revision = private, create_pr, revision
        self.is_created = False

    def run(self, message: str | None) -> Publication:
        """Make the repository and the branch, if they do not exist, and commit on top of what is there now.

        Where the same is there already, no commit is made: so doing it twice is as doing it once.
        """
        if not self.api.repo_exists(self.repo_id):
            self.api.create_repo(self.repo_id, private=self.private, exist_ok=True)
            self.is_created = True
        if self.revision is not None and self._head() is None:
            self.api.create_branch(self.repo_id, branch=self.revision, exist_ok=True)
        head = self._head()
        made = self.api.upload_folder(
            repo_id=self.repo_id,
            folder_path=self.folder,
            allow_patterns=[re.sub(r"([\[*?])", r"[\1]", file) for file in self.files],
            delete_patterns=["images/*.png", "*/images/*.png"],  # of an earlier push that had more of them
            commit_message=message or f"Add {self.repo_id.split('/')[-1]}",
            create_pr=self.create_pr,
            revision=self.revision,
            parent_commit=head,
        )
        is_new = made.oid != head
        url = made.pr_url if self.create_pr and made.pr_url else f"{self.api.endpoint}/{self.repo_id}"
        return Publication(self.repo_id, str(url), None if self.create_pr else made.oid, is_new, tuple(self.files))

    def explain(self, error: BaseException) -> str:
        """Say what failed, what is published now, and how to go on."""
        status = status_of(error)
        if self.is_created:
            state = "the repository was made and is empty, or holds the whole commit if only the answer was lost"
        else:
            state = "the repository is as it was, or holds the whole commit if only the answer was lost"
        advice = f"; {_ADVICE[status]}" if status in _ADVICE else ""
        return (
            f"cannot push to {self.repo_id!r}: {one_line(error)}{advice}. {state[0].upper()}{state[1:]}; the folder "
            f"{str(self.folder)!r} is whole: push_to_hub({str(self.folder)!r}, {self.repo_id!r}) tries again"
        )

    def _head(self) -> str | None:
        try:
            return self.api.repo_info(self.repo_id, revision=self.revision).sha
        except RevisionNotFoundError:
            return None


def _complete_cards(folder: Path, files: list[str], repo_id: str, license_fields: Mapping[str, str]) -> None:
    for file in files:
        if Path(file).name == CARD_NAME:
            text = (folder / file).read_text(encoding="utf-8")
            complete = card_for(text, repo_id, license_fields)
            if complete != text:
                write_atomically(folder / file, complete.encode())


def _inherited_license(api: HfApi, folder: Path) -> dict[str, str]:
    """Return the licence of the base model as the card's fields, empty if it has none or cannot be asked."""
    base_model = _parsed((folder / CARD_NAME).read_text(encoding="utf-8")).data.get("base_model")
    if not isinstance(base_model, str):
        return {}
    try:
        card_data = api.model_info(base_model).card_data
    except HUB_FAILURES as error:
        logger.warning("the card gets no licence: the Hub does not tell that of %s (%s)", base_model, one_line(error))
        return {}
    names = ("license", "license_name", "license_link")
    return {name: card_data[name] for name in names if card_data is not None and isinstance(card_data.get(name), str)}


def _parsed(text: str) -> ModelCard:
    try:
        return ModelCard(text, ignore_metadata_errors=True)
    except yaml.YAMLError as error:
        raise PublishError(f"expected YAML between the --- lines of {CARD_NAME}, got {one_line(error)}") from error


def _concept_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [one for one in sorted(folder.iterdir()) if any((one / name).is_file() for name in WEIGHT_NAMES)]
