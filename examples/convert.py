"""Convert a learned concept between the formats of other programs.

    python examples/convert.py out/mug out/mug_comfyui.safetensors --format comfyui
    python examples/convert.py out/mug out/mug.safetensors --format invokeai
    python examples/convert.py mug.pt out/mug --format diffusers --token "<mug>" --allow_pickle

Files of diffusers, this package, ComfyUI, A1111 (also its pictures), sd-scripts, invoke-training, OneTrainer and
cog-sdxl are read and recognised by their content. Without ``--overwrite`` nothing that exists is replaced.
docs/formats.md says which format each program wants.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, get_args

from diffusers_supreme_init import (
    EmbeddingFormat,
    EmbeddingProgram,
    SupremeInitError,
    convert_embedding,
    read_embeddings,
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        sys.exit(f"error: {message}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; a mistake ends the program with one line."""
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("source", help="A file, or a folder with learned_embeds.safetensors.")
    parser.add_argument("target", help="A file, .safetensors or .pt; for the format diffusers also a folder.")
    formats = (*get_args(EmbeddingFormat), *get_args(EmbeddingProgram))
    parser.add_argument("--format", required=True, choices=formats, help="The program to write for, or the format.")
    parser.add_argument("--token", help="The name of the concept, '<mug>'; default: the one in the file.")
    parser.add_argument(
        "--encoder_keys",
        "--encoder-keys",
        nargs="+",
        metavar="KEY",
        help="For comfyui, where the file does not say it: the text encoder of each embedding, clip_l.",
    )
    parser.add_argument(
        "--allow_pickle",
        "--allow-pickle",
        action="store_true",
        help="Open a .pt or .bin; nothing but tensors and plain values is loaded from it.",
    )
    parser.add_argument("--overwrite", action="store_true", help="Replace files that exist.")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Convert and report; return the files that were written."""
    run = parse(arguments)
    try:
        files = convert_embedding(
            run.source,
            run.target,
            format=run.format,
            token=run.token,
            allow_pickle=run.allow_pickle,
            encoder_keys=run.encoder_keys,
            overwrite=run.overwrite,
        )
        for file in files:
            for embedding in read_embeddings(file, allow_pickle=True):
                name = embedding.placeholder_token or "without a name"
                key = f" {embedding.encoder_key}" if embedding.encoder_key else ""
                dtype = str(embedding.rows.dtype).removeprefix("torch.")
                print(f"{file}: {name}{key} {tuple(embedding.rows.shape)} {dtype}")
    except SupremeInitError as error:
        sys.exit(f"error: {_as_options(str(error))}")
    return files


def _as_options(message: str) -> str:
    """Say how to pass things here, rather than in Python."""
    message = re.sub(r"(allow_pickle|overwrite)=True", r"--\1", message)
    message = re.sub(r"token=('[^']*')", r"--token \1", message)
    return re.sub(r"encoder_keys=\[([^\]]*)\]", lambda keys: f"--encoder_keys {keys[1].replace(',', '')}", message)


if __name__ == "__main__":
    main()
