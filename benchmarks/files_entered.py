"""How many files of the package somebody has to open to follow one thing: a picture, a source, a save, a push.

python benchmarks/files_entered.py          # the installed package; PYTHONPATH chooses another version of it

Runs each for real on a tiny pipeline (a push goes to a Hub on loopback) and watches every Python call. ``images`` and
``source`` count the files with a function that is handed that very object, alone, in a sequence or in one of our
dataclasses; ``save`` and ``push`` count every file that is entered. Rooms are folders of the package; a module at its
root counts as one.
"""

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from hub.server import WRITE_TOKEN, HubServer  # noqa: E402  # found by the line above


@contextmanager
def watched(package: Path, is_counted: Callable[[FrameType], bool]) -> Iterator[set[Path]]:
    """Collect the files of the package in which a counted function is called, in any thread."""
    entered: set[Path] = set()

    def look(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(package) and path not in entered and is_counted(frame):
            entered.add(path.relative_to(package))

    threading.setprofile(look)
    sys.setprofile(look)
    try:
        yield entered
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def is_handed(subject: object) -> Callable[[FrameType], bool]:
    """Whether a function is called with `subject`, alone or inside sequences and dataclasses."""

    def look(frame: FrameType) -> bool:
        code = frame.f_code
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        return any(holds(frame.f_locals.get(name), subject) for name in names)

    return look


def holds(value: object, subject: object, depth: int = 4) -> bool:
    """Whether `subject` is a value, or is found in it."""
    if value is subject:
        return True
    inside: list[object] = []
    if depth and isinstance(value, list | tuple):
        inside = list(value[:3])
    elif depth and is_dataclass(value) and not isinstance(value, type):
        inside = list(vars(value).values()) if hasattr(value, "__dict__") else []
    return any(holds(one, subject, depth - 1) for one in inside)


def main() -> None:
    """Watch the four, and print how many files and rooms each enters."""
    with tempfile.TemporaryDirectory() as folder, HubServer("regular") as server:
        os.environ.update(HF_ENDPOINT=server.url, HF_HOME=folder, HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1")
        from conftest import build_tiny_pipeline, random_picture

        import diffusers_supreme_init as package

        home, saved = Path(str(package.__file__)).parent, Path(folder) / "mug"
        pipe, picture = build_tiny_pipeline(), random_picture()
        config = package.SupremeInitConfig(max_train_steps=2, validation_samples=2)
        entered: dict[str, set[Path]] = {}
        with watched(home, is_handed(picture)) as entered["images"]:
            trainer = package.SupremeInitTextualInversionTrainer(
                pipe, images=picture, placeholder_token="<mug>", initializer="a red mug", config=config
            )
            trainer.train()
        with watched(home, lambda _: True) as entered["save"]:
            trainer.save(saved)
        other, source = build_tiny_pipeline(), str(saved)
        with watched(home, is_handed(source)) as entered["source"]:
            other.load_multitoken_inversion(source)
        with watched(home, lambda _: True) as entered["push"]:
            package.push_to_hub(saved, "user/mug", token=WRITE_TOKEN)
    print("| | files | rooms | which |\n|:---|---:|---:|:---|")
    for name, paths in entered.items():
        rooms = sorted({path.parts[0].removesuffix(".py") for path in paths})
        print(f"| {name} | {len(paths)} | {len(rooms)} | {', '.join(rooms)} |")


if __name__ == "__main__":
    main()
