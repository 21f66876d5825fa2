"""What a picture says for itself: the words that a concept would start from, without training.

    python examples/describe.py desk.jpg --points 412,230
    python examples/describe.py photos/mug --initializer auto --candidates "a skull and bones mug" \
        --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 --dtype bfloat16

Without a picture it describes one of the toybox, which needs neither network nor GPU. With `--output_dir` it also
writes crop.png, which is what was described, and of a region mask.png and region.png.
"""

import argparse
import difflib
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from diffusers import DiffusionPipeline
from PIL import Image, ImageDraw, ImageOps
from transformers import HfArgumentParser

from diffusers_supreme_init import (
    ConfigError,
    DescriberConfig,
    Describers,
    EndpointRefiner,
    InitializerProposal,
    LocalRefiner,
    RefinementStyle,
    Region,
    SupremeInitConfig,
    SupremeInitError,
    check_writable,
    propose_initializer,
)
from diffusers_supreme_init.backbones import family_defaults
from diffusers_supreme_init.describers import Mask

TOYBOX = Path(__file__).parent / "toybox"
TOYBOX_PIPELINE = str(TOYBOX / "pipeline")
TOYBOX_PICTURE = str(TOYBOX / "concepts" / "mug.png")
TOYBOX_GUIDANCE_SCALE = 2.0  # more makes its colors glaring, as with all models of velocity that end in pure noise
TOYBOX_OPTIONS: dict[str, Any] = {"snr_gamma": 5.0, "flip_probability": 0.0}
"""How to train on the toybox: less from the noisiest timesteps, so that prompts can still change colors and
background, as with the paper's model, which predicts noise; and never mirrored, as its toys never are."""


@dataclass(kw_only=True)
class RegionArguments:
    """What in the picture is meant, and who rewrites captions."""

    points: list[str] = field(
        default_factory=list, metadata={"help": "Clicks on the object, in pixels: --points 40,22 55,30."}
    )
    negative_points: list[str] = field(
        default_factory=list, metadata={"help": "Clicks on what does not belong to the object."}
    )
    box: str | None = field(default=None, metadata={"help": "Box around the object: left,top,right,bottom."})
    region_mask: str | None = field(
        default=None, metadata={"help": "Picture of the same size, light where the object is."}
    )
    candidates: list[str] = field(default_factory=list, metadata={"help": "Your own words, for 'auto' to compare."})
    refiner_base_url: str | None = field(
        default=None,
        metadata={"help": "OpenAI-compatible endpoint that rewrites captions; its key is read from OPENAI_API_KEY."},
    )
    refiner_model: str | None = field(
        default=None, metadata={"help": "Model of that endpoint; without an endpoint a local model, id or folder."}
    )
    refiner_max_words: int = field(default=12, metadata={"help": "About how long a rewritten caption is."})
    refiner_sentiment: str = field(default="natural", metadata={"help": "'positive', 'natural' or 'negative'."})
    refiner_language: str = field(default="English", metadata={"help": "Its language."})


@dataclass(kw_only=True)
class DescribeArguments:
    """What to describe, and for which model."""

    pretrained_model_name_or_path: str = field(
        default=TOYBOX_PIPELINE,
        metadata={"help": "Pipeline that counts tokens and measures losses; default: the toybox, 'none' for none."},
    )
    dtype: str = field(
        default="float32",
        metadata={"help": "Precision of the pipeline.", "choices": ["float32", "bfloat16", "float16"]},
    )
    initializer: str = field(default="auto", metadata={"help": "'class', 'caption' or 'auto'."})
    seed: int = field(default=0, metadata={"help": "Seed of the noises by which candidates are compared."})
    output_dir: str | None = field(default=None, metadata={"help": "Write crop.png and mask.png there."})


def is_toybox(pipeline_name: str) -> bool:
    """Whether a pipeline is the toybox, whose own models describe and judge its pictures."""
    return Path(pipeline_name).resolve() == Path(TOYBOX_PIPELINE).resolve()


def toybox_options(pipeline_name: str) -> dict[str, Any]:
    """Return how to train on the toybox, if a pipeline is the toybox."""
    return TOYBOX_OPTIONS if is_toybox(pipeline_name) else {}


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the paragraphs of the description, and shows the default of every option."""


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def parse(
    dataclass_types: Sequence[type], given: Sequence[str], description: str | None, **defaults: Any
) -> tuple[Any, ...]:
    """Parse a command line into dataclasses; with the toybox as pipeline, its describers are the defaults.

    Args:
        dataclass_types: Of which one has `pretrained_model_name_or_path`.
        given: The command line.
        description: Of ``--help``.
        defaults: Other defaults than those of the fields.
    """
    parser = _Parser(
        dataclass_types,  # type: ignore[arg-type]
        description=description,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    if DescribeArguments in dataclass_types:
        parser.add_argument("images", nargs="*", default=[TOYBOX_PICTURE], help="Pictures, folders.")
    named = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    named.add_argument("--pretrained_model_name_or_path", "--pretrained-model-name-or-path", default=TOYBOX_PIPELINE)
    named.add_argument("--candidate_labels", "--candidate-labels", nargs="+")
    early, _ = named.parse_known_args(given)
    if is_toybox(early.pretrained_model_name_or_path):
        names = ("captioner", "segmenter") if early.candidate_labels else ("captioner", "segmenter", "classifier")
        parser.set_defaults(**{name: str(TOYBOX / name) for name in names})
    parser.set_defaults(**defaults)
    *parsed, unknown = parser.parse_args_into_dataclasses(list(given), return_remaining_strings=True)
    repeated = [option for option in given if option.startswith("--") and given.count(option) > 1]
    if repeated:
        raise ConfigError(f"{repeated[0]} was given more than once; write all its values after one")
    if unknown:
        options = [option for option in parser._option_string_actions if option.startswith("--")]
        close = difflib.get_close_matches(unknown[0], options, n=1)
        raise ConfigError(f"unknown option {unknown[0]!r}" + (f"; did you mean {close[0]}?" if close else ""))
    return tuple(parsed)


def load_pipeline(name: str, dtype: str, **options: Any) -> Any:
    """Load a pipeline.

    Args:
        name: Hub id or folder.
        dtype: Precision of its weights; ``"auto"``: on a GPU the usual one of its family, else float32.
        options: Further arguments of ``from_pretrained``.

    Raises:
        ConfigError: There is none of that name, or the Hub cannot be reached.
    """
    if dtype == "auto":
        config = load_pipeline_config(name, options.get("revision"))
        defaults = family_defaults(str(config["_class_name"]))
        dtype = defaults.dtype if defaults is not None and torch.cuda.is_available() else "float32"
        if dtype == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            dtype = "float16"
    try:
        return DiffusionPipeline.from_pretrained(name, dtype=getattr(torch, dtype), **options)
    except (OSError, ValueError) as error:
        raise _no_pipeline(name, error) from error


def load_pipeline_config(name: str, revision: str | None = None) -> dict[str, Any]:
    """Return what ``model_index.json`` says: the class of the pipeline, library and class of each component.

    Raises:
        ConfigError: There is no pipeline of that name, or the Hub cannot be reached.
    """
    try:
        return dict(DiffusionPipeline.load_config(name, revision=revision))
    except (OSError, ValueError) as error:
        raise _no_pipeline(name, error) from error


def _no_pipeline(name: str, error: Exception) -> ConfigError:
    reason = " ".join(str(error).split())[:200]
    return ConfigError(
        f"pretrained_model_name_or_path: expected a folder or Hub id of a pipeline, got {name!r} ({reason})"
    )


def requested_region(arguments: RegionArguments) -> Region | None:
    """Return the region that the options name, or None.

    Raises:
        SupremeInitError: Numbers are not numbers, or options contradict each other.
    """
    if not (arguments.points or arguments.negative_points or arguments.box or arguments.region_mask):
        return None
    return Region(
        points=[_point(text, "--points 40,22") for text in arguments.points],
        negative_points=[_point(text, "--negative_points 40,22") for text in arguments.negative_points],
        box=_box(arguments.box) if arguments.box else None,
        mask=arguments.region_mask,
    )


def requested_describers(arguments: RegionArguments, config: DescriberConfig) -> Describers:
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


def report(proposal: InitializerProposal) -> str:
    """Return what a proposal says, for reading."""
    lines = [f"words:   {proposal.text} ({proposal.candidates[0].source})"]
    if proposal.raw != proposal.text:
        lines.append(f"said:    {proposal.raw!r}")
    if proposal.removed:
        lines.append(f"removed: {', '.join(map(repr, proposal.removed))}")
    if proposal.num_cut:
        lines.append(f"cut:     {proposal.num_cut} tokens")
    if proposal.tokens:
        rows = " ".join(f"{token}({i})" for token, i in zip(proposal.tokens, proposal.token_ids, strict=True))
        lines.append(f"rows:    {len(proposal.tokens)}: {rows}")
    for picture in proposal.pictures:
        if picture.mask is not None:
            size, corners = int(picture.mask.sum()), "left, top, right, bottom"
            lines.append(f"region:  {size} pixels, ({corners}) = {picture.box}, score {picture.score:.2f}")
    lines += [f"note:    {note}" for note in proposal.notes]
    if len(proposal.candidates) > 1:
        lines += ["", proposal.table()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> InitializerProposal:
    """Describe and report; return the proposal."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    try:
        run, region_arguments, config, rest = parse(
            (DescribeArguments, RegionArguments, DescriberConfig), given, description=__doc__
        )
        region = requested_region(region_arguments)
        if run.output_dir is not None:
            check_writable(run.output_dir)
        name = run.pretrained_model_name_or_path
        pipe = None if name == "none" else load_pipeline(name, run.dtype)
        if pipe is not None and torch.cuda.is_available():
            pipe.to("cuda")
        describers = requested_describers(region_arguments, config)
        proposal = propose_initializer(
            rest.images,
            run.initializer,
            pipe=pipe,
            region=region,
            candidates=region_arguments.candidates,
            describers=describers,
            config=SupremeInitConfig(seed=run.seed, **toybox_options(name)),
        )
    except SupremeInitError as error:
        sys.exit(f"error: {error}")
    print(report(proposal))
    if run.output_dir is not None:
        _write_pictures(proposal, region, Path(run.output_dir))
    return proposal


def draw_region(image: Image.Image, mask: Mask, crop: Image.Image, region: Region) -> Image.Image:
    """Return what was clicked, what was found and what was described, side by side."""
    clicked = image.copy()
    pen, radius = ImageDraw.Draw(clicked), max(image.size) / 50
    for points, color in ((region.points, "#009e73"), (region.negative_points, "#d55e00")):
        for x, y in points:  # type: ignore[misc]  # a region holds pairs
            circle = (x - radius, y - radius, x + radius, y + radius)
            pen.ellipse(circle, fill=color, outline="white", width=max(1, round(radius / 3)))
    if region.box is not None:
        pen.rectangle(region.box, outline="#009e73", width=max(1, round(radius / 3)))
    faded = Image.blend(image, Image.new("RGB", image.size, "white"), 0.75)
    panels = [clicked, Image.composite(image, faded, Image.fromarray(mask)), ImageOps.contain(crop, image.size)]
    strip = Image.new("RGB", (sum(panel.width for panel in panels) + 16, image.height), "white")
    left = 0
    for panel in panels:
        strip.paste(panel, (left, (image.height - panel.height) // 2))
        left += panel.width + 8
    return strip


def _write_pictures(proposal: InitializerProposal, region: Region | None, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    proposal.crop.save(folder / "crop.png")
    if proposal.mask is not None and region is not None:
        Image.fromarray(proposal.mask).save(folder / "mask.png")
        whole = proposal.pictures[0].image
        draw_region(whole, proposal.mask, proposal.crop, region).save(folder / "region.png")
    print(f"look at {', '.join(sorted(str(path) for path in folder.glob('*.png')))}")


def _point(text: str, example: str) -> tuple[float, float]:
    x, y = _numbers(text, 2, example)
    return x, y


def _box(text: str) -> tuple[float, float, float, float]:
    left, top, right, bottom = _numbers(text, 4, "--box left,top,right,bottom")
    return left, top, right, bottom


def _numbers(text: str, count: int, example: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count:
        raise ConfigError(f"expected {count} numbers with commas, as in {example}, got {text!r}")
    return values


if __name__ == "__main__":
    main()
