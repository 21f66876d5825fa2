"""`supreme-init completion`: a script with which a shell completes commands and options."""

import argparse
from typing import Any

import shtab

from ..errors import ConfigError
from .arguments import CompletionArguments
from .main import COMMANDS
from .parser import Parsed, parser_of


def run(parsed: Parsed) -> None:
    """Print the script.

    Raises:
        ConfigError: The shell is unknown.
    """
    shells = parsed.of(CompletionArguments).shell
    if len(shells) != 1 or shells[0] not in shtab.SUPPORTED_SHELLS:
        raise ConfigError(
            f"expected one shell of {', '.join(shtab.SUPPORTED_SHELLS)}, got {' '.join(shells) or 'none'}"
        )
    whole = argparse.ArgumentParser("supreme-init")
    made: Any = lambda prog, command: parser_of(command)  # noqa: E731 - argparse wants a class, and calls it
    commands = whole.add_subparsers(parser_class=made)
    for command in COMMANDS.values():
        commands.add_parser(command.name, help=command.summary, command=command)
    print(shtab.complete(whole, shells[0]))
