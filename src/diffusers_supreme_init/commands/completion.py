"""`supreme-init completion`: a script with which a shell completes commands and options."""

import argparse
from typing import Any, cast

import shtab

from ..errors import ConfigError
from .arguments import CompletionArguments
from .main import COMMANDS
from .parser import Command, Parsed, parser_of


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

    def made(prog: str, command: Command) -> argparse.ArgumentParser:
        return parser_of(command)

    commands = whole.add_subparsers(parser_class=cast(Any, made))  # it is only called
    for command in COMMANDS.values():
        commands.add_parser(command.name, help=command.summary, command=command)
    print(shtab.complete(whole, shells[0]))
