"""Learned words and prompts -> pictures; the words are on the pipeline only while they are drawn."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from ..backbones import backbone_for
from ..errors import PublishError
from ..hub_connection import check_repo_id
from ..loading.matching import LoadedConcept
from ..loading.named import check_named
from ..templates import fill_template
from ..text.prompt_cleaning import as_written
from .messages import VisitorError
from .settings import StudioSettings
from .visits import RESULT, Visit
from .words import check_length

_MAX_SEED = 2**32 - 1
_MAX_OTHERS = 8


def sources_of(visit: Visit) -> dict[str, Path | str]:
    """Return the words that a visitor can draw, and where each is loaded from."""
    own: dict[str, Path | str] = {}
    if visit.learned is not None:
        lesson = visit.learned.lesson
        own[lesson.token] = lesson.folder_in(visit.folder) / RESULT
    return own | visit.others


def add_file(settings: StudioSettings, visit: Visit, path: str | None) -> str:
    """Take an embedding file, of this package or another program, as a further word; return its name.

    Raises:
        VisitorError: There is no file, or there are too many words.
        SupremeInitError: It is not one concept, is a pickle, or does not fit the model.
    """
    if path is None:
        raise VisitorError("Choose a file first, such as mug.safetensors.")
    return _add(settings, visit, Path(path))


def add_from_hub(settings: StudioSettings, visit: Visit, repo_id: str) -> str:
    """Take a word that was published on the Hub; return its name.

    Raises:
        VisitorError: The text is a file or folder of the server, or there are too many words.
        SupremeInitError: The Hub has no such word, or it does not fit the model.
    """
    name = repo_id.strip()
    try:
        check_repo_id(name)
    except PublishError as error:
        raise VisitorError("Type the id of a word on the Hub, such as user/mug.") from error
    if Path(name).exists():  # a loader would take it, and read a file of the server
        raise VisitorError(f"“{name}” is a folder on this machine. Upload its file instead.")
    return _add(settings, visit, name)


def draw(
    settings: StudioSettings, sources: Mapping[str, Path | str], prompts: Sequence[str], seed: int
) -> Iterator[Image.Image]:
    """Draw prompts, one picture each, all from the same noise.

    Args:
        settings: The model.
        sources: ``{word: where it is loaded from}``.
        prompts: Prompts as `filled` returns them.
        seed: Seed of the noise.

    Raises:
        VisitorError: A prompt is longer than the model reads.
    """
    with settings.using_model, loaded(settings, sources):
        for prompt in prompts:
            _check_is_read_whole(settings, prompt)
        for prompt in prompts:
            yield draw_one(settings, prompt, seed)


def draw_one(settings: StudioSettings, prompt: str, seed: int) -> Image.Image:
    """Draw a prompt with the words that are loaded, as anybody does with the pipeline."""
    options = {**as_written(settings.pipe), **settings.sampling}
    return settings.pipe(prompt, generator=torch.Generator("cpu").manual_seed(seed), **options).images[0]


@contextlib.contextmanager
def loaded(settings: StudioSettings, sources: Mapping[str, Path | str]) -> Iterator[list[LoadedConcept]]:
    """Load words, and take them off the pipeline again."""
    reports: list[LoadedConcept] = []
    try:
        for token, source in sources.items():
            # The name is given, since files of other programs have none, and two files may have the same.
            reports += settings.pipe.load_multitoken_inversion(source, token=token, hub_token=_hub_token(settings))
        yield reports
    finally:
        if reports:
            settings.pipe.unload_multitoken_inversion([report.placeholder_token for report in reports])


def filled(visit: Visit, prompts: Sequence[str]) -> list[str]:
    """Return prompts with the learned word in place of ``{}``, after checking them.

    Raises:
        VisitorError: A prompt is empty or too long, or there is no word yet.
        ConfigError: A prompt names a word that is not there, or none.
    """
    tokens = list(sources_of(visit))
    if not tokens:
        raise VisitorError("There is no word yet. Learn one first, or add one from a file or from the Hub.")
    words = "" if visit.learned is None else visit.learned.lesson.words
    texts = []
    for prompt in prompts:
        check_length(prompt, "The prompt")
        if not prompt.strip():
            raise VisitorError(f"Write what to draw, such as: a photo of {tokens[0]} on the beach.")
        texts.append(fill_template(prompt.strip(), tokens[0], words) if "{}" in prompt else prompt.strip())
    for text in texts:
        check_named([text], tokens)
    return texts


def checked_seed(seed: float | None) -> int:
    """Return a seed as a whole number.

    Raises:
        VisitorError: It is none, or out of range.
    """
    if seed is None or seed != int(seed) or not 0 <= seed <= _MAX_SEED:
        raise VisitorError(f"The seed has to be a whole number from 0 to {_MAX_SEED:,}.")
    return int(seed)


def _add(settings: StudioSettings, visit: Visit, source: Path | str) -> str:
    if len(visit.others) >= _MAX_OTHERS:
        raise VisitorError(f"At most {_MAX_OTHERS} further words fit on this page. Remove them first.")
    with settings.using_model:
        reports = settings.pipe.load_multitoken_inversion(source, hub_token=_hub_token(settings))
        settings.pipe.unload_multitoken_inversion([report.placeholder_token for report in reports])
    if len(reports) != 1:
        raise VisitorError(f"Expected one word, and there are {len(reports)}. Upload the file of a single one.")
    token = reports[0].placeholder_token
    if token in sources_of(visit):
        raise VisitorError(f"A word named {token} is here already.")
    visit.others[token] = source
    return token


def _hub_token(settings: StudioSettings) -> bool | None:
    """Return with whose login the Hub is read: this machine's only if its owner is the only visitor."""
    return None if settings.login == "machine" else False


def _check_is_read_whole(settings: StudioSettings, prompt: str) -> None:
    """Check that the text encoder with the longest window reads all of a prompt; it would cut the rest silently."""
    backbone = backbone_for(settings.pipe)
    rooms = [
        (len(pair.tokenizer(prompt, verbose=False)["input_ids"]), backbone.window(pair)) for pair in backbone.pairs
    ]
    count, window = max(rooms, key=lambda room: room[1])
    if count > window:
        raise VisitorError(
            f"The prompt has {count} tokens, and the model reads {window}; the rest would be ignored. Please shorten "
            "it."
        )
