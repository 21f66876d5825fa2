"""The command line: which command, what it is asked for, and how it ends.

Only the asked command's module is imported, after its options are known to be right; help needs neither torch nor
diffusers.
"""

import contextlib
import difflib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from typing import Any

from ..config import PAPER_SETTINGS
from ..errors import ConfigError, SupremeInitError
from ..file_names import folder_name
from ..version import __version__
from .arguments import (
    CatalogueArguments,
    CompareArguments,
    CompletionArguments,
    ConceptArguments,
    ConvertArguments,
    DescribeArguments,
    DescriberArguments,
    DrawingArguments,
    EvaluateArguments,
    GenerateArguments,
    HubArguments,
    LibraryArguments,
    ModelArguments,
    PushArguments,
    RefinerArguments,
    RegionArguments,
    ToyboxArguments,
    TrainingArguments,
    UiArguments,
)
from .parser import Command, HelpRequested, Parsed, parse
from .terminal import FAILURE, INTERRUPTED, USAGE, lines_instead_of_bars, only_our_lines, our_messages
from .toybox import toybox_defaults

_SAID = {
    "pass overwrite ": "pass --overwrite ",
    "resume its run": "go on with its run (--resume_from_checkpoint latest)",
    "choose another output_dir": "choose another --output_dir",
}
"""Advice of the package -> how to follow it on the command line."""


def _train_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of training.

    A folder named after the concept; of a region, the object counts and what surrounds it only a little; the paper's
    settings if asked for.
    """
    token = given.get("placeholder_token")
    name = folder_name(token) if isinstance(token, str) else "concepts"
    paper = PAPER_SETTINGS if given.get("paper") else {}
    has_region = any(given.get(option) for option in ("points", "box", "region_mask", "region_words"))
    is_masked = has_region and not paper and given.get("masked_loss", True)
    masked = {"masked_loss": True, "unmasked_weight": 0.25} if is_masked else {}
    return {**toybox_defaults(given), **masked, **paper, "output_dir": os.path.join("out", name)}


COMMANDS = {
    one.name: one
    for one in (
        Command(
            name="train",
            summary="Teach a model a new word from a picture.",
            arguments=(
                ConceptArguments,
                CatalogueArguments,
                ModelArguments,
                RegionArguments,
                TrainingArguments,
                DescriberArguments,
                DrawingArguments,
                HubArguments,
            ),
            module="train",
            before_models="up_to_date",
            usual=(
                "placeholder_token",
                "pretrained_model_name_or_path",
                "initializer",
                "points",
                "max_train_steps",
                "output_dir",
            ),
            positional=("images", "PICTURE"),
            defaults=_train_defaults,
            example='supreme-init train mug.jpg --token "<mug>" --model stable-diffusion-v1-5/stable-diffusion-v1-5',
            details="Finds words for the picture, or for what you clicked on, and trains them for about 100 steps.\n"
            "What you click on counts in training, what surrounds it a little (--masked_loss false: the same).\n"
            "Put pictures before the options. On several GPUs: accelerate launch -m diffusers_supreme_init train ...\n"
            "--concepts metadata.jsonl trains any number of words into a library, and goes on where it ended.",
        ),
        Command(
            name="describe",
            summary="Find the words that a picture would start from, without training.",
            arguments=(DescribeArguments, ModelArguments, RegionArguments, DescriberArguments),
            module="describe",
            usual=("pretrained_model_name_or_path", "points", "initializer", "candidates", "captioner", "output_dir"),
            positional=("images", "PICTURE"),
            defaults=toybox_defaults,
            example="supreme-init describe desk.jpg --points 412,230 --model ...",
            details="Without --model, words are found but not compared.",
        ),
        Command(
            name="generate",
            summary="Draw prompts with learned words.",
            arguments=(GenerateArguments, ModelArguments, DrawingArguments),
            module="generate",
            usual=(
                "concepts",
                "pretrained_model_name_or_path",
                "num_images_per_prompt",
                "num_inference_steps",
                "seed",
                "output_dir",
            ),
            positional=("prompts", "PROMPT"),
            defaults=toybox_defaults,
            example='supreme-init generate "a photo of <mug> on the beach" --concepts out/mug',
            details="Without --model it takes the model that the concepts were trained on, if that has a Hub id.",
        ),
        Command(
            name="compare",
            summary="Train pictures from several starts, and see which is ahead after how many steps.",
            arguments=(CompareArguments, ModelArguments, DescriberArguments, DrawingArguments),
            module="compare",
            usual=("pretrained_model_name_or_path", "initializers", "steps", "seeds", "prompt", "output_dir"),
            positional=("images", "PICTURE"),
            defaults=toybox_defaults,
            example='supreme-init compare mug.jpg cat.jpg --initializers caption class "*" --seeds 0 1 2 --model ...',
            details="All starts train in the paper's settings and see the same noises. Writes a sheet for each\n"
            "picture, losses.csv, and a table with 95 % intervals.",
        ),
        Command(
            name="evaluate",
            summary="Measure how well a learned word keeps the object, and how well prompts change it.",
            arguments=(EvaluateArguments, ModelArguments, DrawingArguments),
            module="evaluate",
            usual=(
                "concept",
                "pretrained_model_name_or_path",
                "description",
                "seeds",
                "num_inference_steps",
                "output_dir",
            ),
            positional=("images", "PICTURE"),
            defaults=toybox_defaults,
            example="supreme-init evaluate mug.jpg --concept out/mug",
        ),
        Command(
            name="convert",
            summary="Convert a learned word between the formats of other programs.",
            arguments=(ConvertArguments,),
            module="convert",
            uses_models=False,
            usual=("format", "token", "encoder_keys", "allow_pickle", "overwrite"),
            positional=("files", "FILE"),
            example="supreme-init convert out/mug mug.safetensors --format comfyui",
            details="Reads files of diffusers, this package, ComfyUI, A1111 (also its pictures), Forge, InvokeAI,\n"
            "sd-scripts, invoke-training, OneTrainer and cog-sdxl, whatever they are called.",
        ),
        Command(
            name="push",
            summary="Publish a folder that training saved.",
            arguments=(PushArguments,),
            module="push",
            uses_models=False,
            usual=("hub_private_repo", "hub_license", "create_pr", "revision", "commit_message", "overwrite"),
            positional=("folder_and_repository", "FOLDER ID"),
            example="supreme-init push out/mug user/mug",
        ),
        Command(
            name="library",
            summary="List, merge, remove from or verify a folder of many words.",
            arguments=(LibraryArguments,),
            module="library",
            uses_models=False,
            usual=("overwrite",),
            positional=("action", "ACTION FOLDER"),
            example="supreme-init library verify library",
            details="list FOLDER, verify FOLDER, merge FOLDER ... INTO, remove FOLDER TOKEN ...\n"
            "verify finds damaged files, concepts that the index does not list, and lines without a concept.",
        ),
        Command(
            name="ui",
            summary="Open a page on which you click on the thing, watch it learn, and take the word home.",
            arguments=(UiArguments, ModelArguments, RefinerArguments, DescriberArguments, DrawingArguments),
            module="ui",
            usual=("pretrained_model_name_or_path", "num_inference_steps", "server_name", "server_port", "inbrowser"),
            defaults=toybox_defaults,
            example="supreme-init ui --model toybox --inbrowser",
            details="Needs the extra ui: pip install 'diffusers-supreme-init[ui]'.",
        ),
        Command(
            name="completion",
            summary="Print a script with which your shell completes commands and options.",
            arguments=(CompletionArguments,),
            module="completion",
            uses_models=False,
            usual=("shell",),
            positional=("shell", "SHELL"),
            example='eval "$(supreme-init completion bash)"',
        ),
        Command(
            name="env",
            summary="Print versions, devices and folders: what a bug report needs.",
            arguments=(),
            module="environment",
            uses_models=False,
            usual=(),
        ),
        Command(
            name="toybox",
            summary="Show where the toybox is, a small model to try everything on, and commands to try.",
            arguments=(ToyboxArguments,),
            module="toybox",
            uses_models=False,
            usual=("output_dir",),
            example="supreme-init toybox --output_dir toys",
        ),
    )
}


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status.

    Returns:
        0; 2 if the words make no sense; 1 if the command failed; 130 if it was interrupted. Messages go to stderr.
    """
    words = list(sys.argv[1:] if words is None else words)
    if words[:1] == ["--version"]:
        print(__version__)
        return 0
    if not words or words[0] in ("-h", "--help", "--help_all", "help"):
        print(overview())
        return 0
    command = COMMANDS.get(words[0])
    if command is None:
        close = difflib.get_close_matches(words[0], COMMANDS, n=1)
        return _fail(f"expected a command ({', '.join(COMMANDS)}), got {words[0]!r}", USAGE, close)
    try:
        parsed = parse(command, words[1:])
    except HelpRequested as asked:
        print(asked)
        return 0
    except ConfigError as error:
        return _fail(_as_typed(str(error), command), USAGE)
    with lines_instead_of_bars(), our_messages(is_verbose=parsed.is_verbose):
        try:
            status = None
            if command.before_models is not None:
                status = _run(command.before_models, parsed, ("transformers",))
            if status is None:
                libraries = ("diffusers", "transformers") if command.uses_models else ("transformers",)
                status = _run(command.module, parsed, libraries)
            return int(status or 0)
        except SupremeInitError as error:
            return _fail(_as_typed(str(error), command), FAILURE)
        except KeyboardInterrupt:
            return _fail("interrupted", INTERRUPTED)


def _run(module: str, parsed: Parsed, libraries: Sequence[str]) -> int | None:
    with contextlib.nullcontext() if parsed.is_verbose else only_our_lines(libraries):
        return import_module(f".{module}", __package__).run(parsed)


def overview() -> str:
    """Return the list of commands."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:{width}}  {one.summary}" for name, one in COMMANDS.items())
    return (
        "usage: supreme-init COMMAND ...\n\n"
        "Teaches a text-to-image model a new word from one picture, starting from what the picture says.\n\n"
        f"{listed}\n\n"
        "supreme-init COMMAND --help shows the usual options of a command, --help_all every one.\n"
        "-v also shows what other libraries say. To try it: supreme-init toybox. Version: --version."
    )


def _fail(message: str, status: int, close: Sequence[str] = ()) -> int:
    hint = f"; did you mean {close[0]}?" if close else ""
    print(f"error: {message}{hint}", file=sys.stderr)
    return status


def _as_typed(message: str, command: Command) -> str:
    """Say how to pass things to a command, rather than in Python; what it has no option for stays as it is."""
    options = {one.name for kind in command.arguments for one in fields(kind)}

    def typed(name: str, text: str) -> str | None:
        return f"--{name} {text}".rstrip() if name in options else None

    message = re.sub(r"\b([a-z]\w+)=True\b", lambda found: typed(found[1], "") or found[0], message)
    message = re.sub(r"\b([a-z]\w+)=('[^']*')", lambda found: typed(found[1], found[2]) or found[0], message)
    message = re.sub(
        r"\b([a-z]\w+)=\[([^\]]*)\]", lambda found: typed(found[1], found[2].replace(",", "")) or found[0], message
    )
    for said, here in _SAID.items():
        message = message.replace(said, here)
    return message
