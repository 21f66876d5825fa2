"""`supreme-init generate`: draw prompts with learned words."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..errors import ConfigError
from ..files import check_writable
from ..loading.named import check_named
from ..loading.options import SourceOptions
from ..loading.reading import read_sources
from ..sharing.sheet import SheetRow, draw_sheet, size_that_fits
from ..text.prompt_cleaning import as_written
from ..version import __version__
from .arguments import DrawingArguments, GenerateArguments, ModelArguments
from .parser import Parsed
from .pipelines import check_model, device, load_pipeline, sampling_of
from .toybox import NAME


def run(parsed: Parsed) -> None:
    """Draw, save the pictures, and a sheet of them.

    Raises:
        SupremeInitError: A model or a concept cannot be loaded, or a prompt names a concept that is not there.
    """
    asked, model = parsed.of(GenerateArguments), parsed.of(ModelArguments)
    if not asked.prompts:
        raise ConfigError('expected a prompt, got none; prompts come before the options: supreme-init generate "..."')
    if model.pretrained_model_name_or_path is None:
        model = replace(model, pretrained_model_name_or_path=base_model_of(asked.concepts))
    check_model(model)
    check_named(asked.prompts, _tokens_of(asked.concepts))
    check_writable(asked.output_dir)
    pipe = load_pipeline(model).to(device())
    if asked.concepts:
        pipe.load_multitoken_inversion(asked.concepts)
    sampling = as_written(pipe) | sampling_of(parsed.of(DrawingArguments), model)
    output_dir, rows = Path(asked.output_dir), []
    for number, prompt in enumerate(asked.prompts):
        pictures = draw(pipe, prompt, seed=asked.seed, num_images=asked.num_images_per_prompt, **sampling)
        for index, picture in enumerate(pictures):
            picture.save(output_dir / f"{number}-{index}.png")
        rows.append(SheetRow(title=prompt, pictures=pictures))
    # At least 128 pixels, so that the toybox's pictures can be seen.
    wanted = min(256, max(128, rows[0].pictures[0].width))
    size = size_that_fits(wanted, asked.num_images_per_prompt)
    draw_sheet(rows, picture_size=size).save(output_dir / "sheet.png")
    lines = [f"{number}: {prompt}" for number, prompt in enumerate(asked.prompts)]
    (output_dir / "prompts.txt").write_text("\n".join([*lines, f"{__version__=}", ""]), encoding="utf-8")
    num_pictures = sum(len(row.pictures) for row in rows)
    print(
        f"{num_pictures} picture{'s' if num_pictures > 1 else ''} in {output_dir}; look at {output_dir / 'sheet.png'}."
    )


def base_model_of(concepts: Sequence[str]) -> str:
    """Return the model that concepts were trained on.

    Raises:
        ConfigError: They do not say, or were trained on different ones.
        EmbeddingFileError: A concept cannot be read.
    """
    if not concepts:
        raise ConfigError("expected --model, or --concepts that name theirs, got neither")
    found = read_sources([*concepts], None, SourceOptions(), has_token=False)
    models = {NAME if one.training.get("toybox") else one.base_model for _, embeddings in found for one in embeddings}
    if len(models) != 1 or None in models:
        names = ", ".join(sorted(str(model) for model in models if model is not None)) or "none"
        raise ConfigError(
            f"expected --model: the concepts should name one model that they were trained on, got {names}"
        )
    return str(models.pop())


def _tokens_of(concepts: Sequence[str]) -> list[str]:
    """Return the words by which concepts will be loaded.

    Raises:
        EmbeddingFileError: A concept cannot be read.
    """
    found = read_sources([*concepts], None, SourceOptions(), has_token=False)
    return [str(embeddings[0].placeholder_token) for _, embeddings in found]


def draw(pipe: Any, prompt: str, *, seed: int, num_images: int = 1, **options: Any) -> list[Image.Image]:
    """Return pictures of one prompt; picture k starts from the noise of ``seed + k``."""
    generators = [torch.Generator("cpu").manual_seed(seed + index) for index in range(num_images)]
    return list(pipe(prompt=prompt, num_images_per_prompt=num_images, generator=generators, **options).images)
