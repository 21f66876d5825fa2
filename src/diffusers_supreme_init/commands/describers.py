"""Options -> the region that is meant, and the describers that look at it."""

import os
from collections.abc import Sequence

from ..describers import Describers, EndpointRefiner, LocalRefiner, RefinementStyle, Region
from ..errors import ConfigError
from .arguments import DescriberArguments, RefinerArguments, RegionArguments


def requested_region(arguments: RegionArguments) -> Region | None:
    """Return the region that the options name, or None.

    Raises:
        SupremeInitError: Numbers are not numbers, or options contradict each other.
    """
    by_pixels = arguments.points or arguments.negative_points or arguments.box or arguments.region_mask
    if not by_pixels and arguments.region_words is None:
        return None
    return Region(
        points=[_point(text, "--points 40,22") for text in arguments.points],
        negative_points=[_point(text, "--negative_points 40,22") for text in arguments.negative_points],
        box=_box(arguments.box) if arguments.box else None,
        mask=arguments.region_mask,
        words=arguments.region_words,
    )


def requested_describers(arguments: RefinerArguments, config: DescriberArguments) -> Describers:
    """Return the describers that the options name.

    Raises:
        SupremeInitError: Options of the refiner are missing or out of range.
    """
    style = RefinementStyle(
        max_words=arguments.refiner_max_words,
        sentiment=arguments.refiner_sentiment,
        language=arguments.refiner_language,
    )
    refiner: EndpointRefiner | LocalRefiner | None = None
    if arguments.refiner_base_url is not None:
        if arguments.refiner_model is None:
            raise ConfigError("expected --refiner_model with --refiner_base_url, got none")
        refiner = EndpointRefiner(
            arguments.refiner_base_url, arguments.refiner_model, api_key=os.environ.get("OPENAI_API_KEY"), style=style
        )
    elif arguments.refiner_model is not None:
        refiner = LocalRefiner(arguments.refiner_model, style=style)
    return Describers(config, refiner=refiner)


def check_describers(
    describers: Describers, methods: Sequence[str | None], *, clicks: bool = False, words: bool = False
) -> None:
    """Check that the models that will be asked are there, before any is loaded.

    Args:
        describers: The models.
        methods: How each concept finds its words; None: they are given.
        clicks: Whether a region has to be found by points or a box.
        words: Whether a region has to be found by words.

    Raises:
        DescriberError: One is not there, or the segmenter takes no words.
    """
    asked = set()
    if {"class", "auto"} & {*methods} and describers.config.num_labels:
        asked.add("classifier")
    if {"caption", "auto"} & {*methods} and describers.config.num_captions:
        asked.add("captioner")
    if words:
        asked.add("word_segmenter")
    if clicks or ("auto" in methods and describers.config.score_object):
        asked.add("segmenter")
    describers.check(sorted(asked))


def _point(text: str, example: str) -> tuple[float, float]:
    x, y = _numbers(text, 2, example)
    return x, y


def _box(text: str) -> tuple[float, float, float, float]:
    left, top, right, bottom = _numbers(text, 4, "--box left,top,right,bottom")
    return left, top, right, bottom


def _numbers(text: str, count: int, example: str) -> list[float]:
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        hint = "; pictures come before the options" if os.path.exists(text) else ", with commas and without spaces"
        raise ConfigError(f"expected {count} numbers in pixels ({example}){hint}, got {text!r}")
    return numbers
