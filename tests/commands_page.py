"""Writes `docs/commands.md`: what each command says of itself. Run it after an option has changed."""

import os

from conftest import ROOT

from diffusers_supreme_init.commands.main import COMMANDS, overview
from diffusers_supreme_init.commands.parser import HelpRequested, parse

PAGE = ROOT / "docs" / "commands.md"
_WIDTH = "100"


def page() -> str:
    """Return the page."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = _WIDTH  # argparse breaks its lines by it
    try:
        parts = ["# Commands", _block(overview())]
        for command in COMMANDS.values():
            parts += [f"## {command.name}", _block(_help(command.name))]
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return "\n\n".join(parts) + "\n"


def _help(name: str) -> str:
    try:
        parse(COMMANDS[name], ["--help_all"])
    except HelpRequested as asked:
        return str(asked).rstrip()
    raise AssertionError("no help")


def _block(text: str) -> str:
    return f"```\n{text}\n```"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
