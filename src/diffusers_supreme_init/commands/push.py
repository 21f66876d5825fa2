"""`supreme-init push`: publish a folder that training saved."""

from ..errors import ConfigError
from ..sharing.publishing import push_to_hub
from .arguments import PushArguments
from .parser import Parsed


def run(parsed: Parsed) -> None:
    """Publish, and say where.

    Raises:
        PublishError: The folder is no saved concept, or the Hub refused or failed; the folder is unchanged.
    """
    asked = parsed.of(PushArguments)
    if len(asked.folder_and_repository) != 2:
        raise ConfigError("expected a folder and a repository: supreme-init push out/mug user/mug")
    folder, repository = asked.folder_and_repository
    published = push_to_hub(
        folder,
        repository,
        private=asked.hub_private_repo or None,
        license=asked.hub_license,
        create_pr=asked.create_pr,
        revision=asked.revision,
        commit_message=asked.commit_message,
        overwrite=asked.overwrite,
        allow_toybox=asked.allow_toybox,
    )
    print(f"published: {published.url}" + ("" if published.is_new_commit else " (it held the same already)"))
