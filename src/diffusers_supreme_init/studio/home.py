"""A learned word -> what its visitor takes home: a file for each program, a repository on the Hub, code, the cost."""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import SupremeInitConfig
from ..errors import PublishError, SupremeInitError
from ..file_names import WEIGHT_NAMES, folder_name
from ..formats.conversion import convert_embedding
from ..formats.embedding_file import read_embedding
from ..hub_connection import check_repo_id
from ..sharing.publishing import check_can_push, push_to_hub
from ..templates import VALIDATION_TEMPLATE, fill_template
from .messages import VisitorError, as_sentence
from .settings import StudioSettings
from .visits import RESULT, Learned, Visit


@dataclass(frozen=True)
class Program:
    """A program that reads learned words.

    Attributes:
        name: What people call it.
        format: What `convert_embedding` calls it.
        usage: What to do with the file; ``{file}`` is its name, ``{stem}`` that without its suffix, ``{token}`` the
            word.
        suffix: Suffix of the file.
    """

    name: str
    format: str
    usage: str
    suffix: str = ".safetensors"


PROGRAMS = (
    Program("diffusers", "diffusers", "Load it with the code below, and write {token} in prompts."),
    Program("ComfyUI", "comfyui", "Put it into models/embeddings, and write embedding:{stem} in prompts."),
    Program("AUTOMATIC1111", "a1111", "Put it into embeddings, and write {stem} in prompts.", ".pt"),
    Program("Forge", "forge", "Put it into embeddings, and write {stem} in prompts."),
    Program("SD.Next", "sdnext", "Put it into models/embeddings, and write {stem} in prompts."),
    Program("InvokeAI", "invokeai", "Add it in the model manager, and write <{stem}> in prompts."),
    Program("OneTrainer", "onetrainer", "Choose it as the base embedding of a training."),
    Program("kohya’s sd-scripts", "sd-scripts", "Pass it to gen_img.py as --textual_inversion_embeddings {file}."),
    Program("invoke-training", "invoke-training", "Name it as initial_embedding_file of a training."),
)


def saved(visit: Visit) -> Learned:
    """Return what the visitor has learned.

    Raises:
        VisitorError: Nothing was learned yet.
    """
    if visit.learned is None:
        raise VisitorError("There is nothing to take home yet. Learn a word first.")
    return visit.learned


def download(visit: Visit, program_name: str) -> tuple[str, str]:
    """Write the learned word for a program; return the path of the file, and what to do with it.

    Raises:
        VisitorError: There is no such program, nothing was learned, or the program cannot read this word.
    """
    token = saved(visit).lesson.token
    program = next((one for one in PROGRAMS if program_name in (one.name, one.format)), None)
    if program is None:
        raise VisitorError(f"Choose one of {', '.join(one.name for one in PROGRAMS)}.")
    name = folder_name(token) + program.suffix
    weights = _weights(visit)
    if program.format == "diffusers" and len(weights) > 1:
        return _zipped(visit, weights, folder_name(token))
    target = visit.folder / "converted" / name
    target.parent.mkdir(exist_ok=True)
    format_: Any = program.format
    try:
        (file,) = convert_embedding(_result(visit), target, format=format_, overwrite=True)
    except SupremeInitError as error:
        raise VisitorError(f"{program.name} cannot read this word. {as_sentence(str(error))}") from error
    usage = program.usage.format(file=name, stem=folder_name(token), token=token)
    return visit.show_file(name, file), usage


def push(
    settings: StudioSettings, visit: Visit, repo_id: str, *, private: bool, replace: bool, token: str | None
) -> str:
    """Publish the learned word with the visitor's own login; return the address.

    Args:
        settings: Whose login it is, see `Login`.
        visit: The visitor.
        repo_id: ``"user/mug"``.
        private: Whether a new repository is private.
        replace: Whether to replace another word of the same name that is published there.
        token: The visitor's access token; None: not given.

    Raises:
        VisitorError: The visitor is not logged in, or the id is no id.
        PublishError: The Hub refused or failed.
    """
    folder = _result(visit)
    if settings.login != "machine" and not token:
        how = "Log in with the link above" if settings.login == "space" else "Paste an access token of yours"
        raise VisitorError(f"{how} first, so that the word is published under your name.")
    try:
        check_repo_id(repo_id.strip())
    except PublishError as error:
        raise VisitorError("Type where to publish, as your name and the word’s: user/mug.") from error
    login = token or None
    check_can_push(repo_id.strip(), token=login)
    published = push_to_hub(folder, repo_id.strip(), private=private or None, token=login, overwrite=replace)
    return published.url


def snippet(settings: StudioSettings, visit: Visit) -> str:
    """Return code that draws the first picture of the gallery again, to the pixel, from the seed that it shows."""
    learned = saved(visit)
    token = learned.lesson.token
    file = folder_name(token) + (".safetensors" if len(_weights(visit)) == 1 else "")
    prompt = fill_template(VALIDATION_TEMPLATE, token, learned.lesson.words)
    options = "".join(f", {name}={value!r}" for name, value in settings.sampling.items())
    kind = type(settings.pipe).__name__
    is_toybox = settings.model == "toybox"
    where = 'toybox_folder() / "pipeline"' if is_toybox else repr(settings.model)
    return "\n".join(
        [
            "import torch",
            f"from diffusers import {kind}",
            "import diffusers_supreme_init",
            *["from diffusers_supreme_init.commands import toybox_folder"] * is_toybox,
            "",
            f"pipe = {kind}.from_pretrained({where}, dtype={settings.pipe.dtype})",
            f"pipe.load_multitoken_inversion({file!r})  # the file for diffusers",
            "# the first of the six pictures, to the pixel",
            f'generator = torch.Generator("cpu").manual_seed({visit.gallery_seed})',
            f"pipe({prompt!r}, generator=generator{options}).images[0]",
        ]
    )


def cost(visit: Visit) -> dict[str, Any]:
    """Return what the word cost: seconds, steps, samples seen, rows, bytes, and the loss before and after."""
    learned = saved(visit)
    weights = _weights(visit)
    embeddings = [read_embedding(path) for path in weights]
    losses = learned.validation
    return {
        "seconds": round(learned.seconds, 1),
        "steps": learned.steps,
        "samples": learned.steps * SupremeInitConfig(**learned.lesson.settings).samples_per_step,
        "rows": sum(one.num_vectors for one in embeddings),
        "bytes": sum(path.stat().st_size for path in weights),
        "loss_before": losses[min(losses)] if losses else None,
        "loss_after": losses[max(losses)] if losses else None,
    }


def _result(visit: Visit) -> Path:
    return saved(visit).lesson.folder_in(visit.folder) / RESULT


def _weights(visit: Visit) -> list[Path]:
    """Return the embedding files of the result, one for each trained text encoder."""
    return [path for name in WEIGHT_NAMES if (path := _result(visit) / name).is_file()]


def _zipped(visit: Visit, weights: Sequence[Path], stem: str) -> tuple[str, str]:
    """Put the files of several text encoders into one, for the page has one button."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for path in weights:
            archive.write(path, f"{stem}/{path.name}")
    return visit.show_file(f"{stem}.zip", data.getvalue()), "Unpack it, and load the folder with the code below."
