"""For one picture, what each start draws after how many steps: see the convergence (the paper's figures 1 and A.2).

    python examples/compare.py mug.jpg --initializers caption class "*" --steps 0 10 30 100

Without a picture it takes the mug of the toybox, which needs neither network nor GPU. All starts train in one batch
and see the same noises, and all pictures are drawn from one noise. Writes compare.png and the embeddings of each
step.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from describe import (
    TOYBOX_GUIDANCE_SCALE,
    TOYBOX_PICTURE,
    TOYBOX_PIPELINE,
    is_toybox,
    load_pipeline,
    parse,
    toybox_options,
)
from generate import draw
from PIL import Image, ImageDraw, ImageFont

from diffusers_supreme_init import (
    Concept,
    ConceptProgress,
    ConfigError,
    DescriberConfig,
    Describers,
    SupremeInitConfig,
    SupremeInitError,
    SupremeInitTextualInversionTrainer,
    as_written,
    check_writable,
    fill_template,
    fit_to_square,
    folder_name,
    load_picture,
)

MARGIN = 6
LABEL_HEIGHT = 22


@dataclass(kw_only=True)
class CompareArguments:
    """What is compared."""

    image: str = field(default=TOYBOX_PICTURE, metadata={"help": "The picture; default: the mug of the toybox."})
    pretrained_model_name_or_path: str = field(
        default=TOYBOX_PIPELINE, metadata={"help": "Hub id or folder of the pipeline; default: the toybox."}
    )
    dtype: str = field(
        default="float32",
        metadata={"help": "Precision of the frozen weights.", "choices": ["float32", "bfloat16", "float16"]},
    )
    initializers: list[str] = field(
        default_factory=lambda: ["caption", "class", "*"],
        metadata={"help": "Rows of the sheet: 'caption', 'class', 'auto', or words."},
    )
    steps: list[int] = field(default_factory=lambda: [0, 10, 30, 100], metadata={"help": "Columns of the sheet."})
    prompt: str = field(default="a photo of a {}", metadata={"help": "What is drawn; '{}' is the concept."})
    learning_rate: float | None = field(default=None, metadata={"help": "Default: that of the model family."})
    num_inference_steps: int = field(default=30, metadata={"help": "Steps of the sampler."})
    guidance_scale: float | None = field(
        default=None, metadata={"help": "Default: 2 for the toybox, else the pipeline's own."}
    )
    seed: int = field(default=0, metadata={"help": "Of training and of the pictures."})
    output_dir: str = field(default="out/compare", metadata={"help": "Where everything is written."})


def train(pipe: Any, run: CompareArguments, describers: Describers) -> list[ConceptProgress]:
    """Train the picture from every start, in one batch, with snapshots at the steps asked for."""
    concepts = [
        Concept(images=run.image, placeholder_token=f"<start-{number}>", initializer=words, random_key="compare")
        for number, words in enumerate(run.initializers)
    ]
    config = SupremeInitConfig(
        max_train_steps=max(run.steps),
        learning_rate=run.learning_rate,
        snapshot_steps=[str(step) for step in run.steps],
        validation_steps=[str(step) for step in run.steps],
        checkpointing_steps=0,
        seed=run.seed,
        output_dir=run.output_dir,
        **toybox_options(run.pretrained_model_name_or_path),
    )
    trainer = SupremeInitTextualInversionTrainer(pipe, concepts=concepts, describers=describers, config=config)
    return trainer.train()


def draw_snapshots(
    pipe: Any, results: Sequence[ConceptProgress], run: CompareArguments
) -> dict[str, dict[int, Image.Image]]:
    """Draw the prompt with the rows of each step, ``{placeholder token: {step: picture}}``."""
    pipe.unload_multitoken_inversion()
    sampling: dict[str, Any] = {**as_written(pipe), "num_inference_steps": run.num_inference_steps}
    if run.guidance_scale is not None:
        sampling["guidance_scale"] = run.guidance_scale
    pictures: dict[str, dict[int, Image.Image]] = {}
    for result in results:
        token = result.placeholder_token
        folder = Path(run.output_dir) / folder_name(token) if len(results) > 1 else Path(run.output_dir)
        text = fill_template(run.prompt, token, result.description)
        pictures[token] = {}
        for step in run.steps:
            pipe.load_multitoken_inversion(folder / f"learned_embeds-steps-{step}.safetensors")
            (pictures[token][step],) = draw(pipe, text, seed=run.seed, **sampling)
            pipe.unload_multitoken_inversion(token)
    return pictures


def make_sheet(
    given: Image.Image,
    results: Sequence[ConceptProgress],
    pictures: Mapping[str, Mapping[int, Image.Image]],
    steps: Sequence[int],
) -> Image.Image:
    """Return the picture given and, in a labelled row for each start, what it draws, with the loss below."""
    side = min(max(next(iter(pictures[results[0].placeholder_token].values())).width, 160), 512)  # labels stay legible
    column, row = side + MARGIN, side + 2 * LABEL_HEIGHT + MARGIN
    sheet = Image.new("RGB", (column * (len(steps) + 1) + MARGIN, row * len(results) + MARGIN), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    sheet.paste(_scaled(given, side), (MARGIN, MARGIN + LABEL_HEIGHT))
    pen.text((MARGIN, MARGIN + 2), "the picture given", fill="black", font=font)
    for number, result in enumerate(results):
        top, losses = MARGIN + number * row, result.mean_validation_losses()
        pen.text((MARGIN + column, top + 2), f'from "{result.description}"', fill="black", font=font)
        for index, step in enumerate(steps, start=1):
            left = MARGIN + index * column
            sheet.paste(
                _scaled(pictures[result.placeholder_token][step], side),
                (left, top + LABEL_HEIGHT),
            )
            label = f"step {step}: loss {losses[step]:.4f}"
            pen.text((left, top + LABEL_HEIGHT + side + 2), label, fill="black", font=font)
    return sheet


def main(arguments: Sequence[str] | None = None) -> Path:
    """Train, draw; return the sheet."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and not given[0].startswith("-"):
        given[:1] = ["--image", given[0]]
    try:
        run, describer_config = parse((CompareArguments, DescriberConfig), given, description=__doc__)
        if not run.steps or min(run.steps) < 0:
            raise ConfigError(f"steps: expected numbers of at least 0, got {run.steps}")
        run.steps = sorted(set(run.steps))
        if run.guidance_scale is None and is_toybox(run.pretrained_model_name_or_path):
            run.guidance_scale = TOYBOX_GUIDANCE_SCALE
        check_writable(run.output_dir)
        picture = load_picture(run.image).image
        pipe = load_pipeline(run.pretrained_model_name_or_path, run.dtype)
        pipe.to("cuda" if torch.cuda.is_available() else "cpu")
        pipe.set_progress_bar_config(disable=True)
        results = train(pipe, run, Describers(describer_config))
        pictures = draw_snapshots(pipe, results, run)
    except SupremeInitError as error:
        sys.exit(f"error: {error}")
    side = next(iter(pictures[results[0].placeholder_token].values())).width
    path = Path(run.output_dir) / "compare.png"
    make_sheet(fit_to_square(picture, side, center_crop=True), results, pictures, run.steps).save(path)
    print(f"look at {path}")
    return path


def _scaled(picture: Image.Image, side: int) -> Image.Image:
    return picture.resize((side, side), Image.Resampling.NEAREST if picture.width < side else Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
