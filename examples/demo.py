"""One picture in, a concept out: what `make demo` runs, on the toybox, without network or GPU.

Trains ``<mug>`` twice in one batch, from its caption and from ``"*"``, loads the caption's file into a fresh pipeline
and writes to `--output_dir`:

    before_after.png  the picture given, the caption alone, the learned words, the learned words in new sentences
    loss.png          fixed-noise loss of both starts
    metrics.json      the same in numbers
    mug/, star/       both concepts, as `save` writes them
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from diffusers import DiffusionPipeline
from generate import draw
from PIL import Image

from diffusers_supreme_init import (
    Concept,
    ConceptProgress,
    SupremeInitConfig,
    SupremeInitTextualInversionTrainer,
    load_concepts,
)

mpl.use("Agg")
from matplotlib import pyplot as plt

TOYBOX = Path(__file__).parent / "toybox"
CONFIG = SupremeInitConfig(validation_samples=64, validation_steps=["0", "5", "10", "every:20"])
SAMPLING = {"num_inference_steps": 30, "guidance_scale": 4.0}
NUM_PICTURES = 4
SENTENCES = (
    "a rendering of {} with blue trim",
    "a photo of {} with green trim",
    "a photo of {} with green trim on a gray background",
)
FROM_CAPTION, FROM_STAR = "#0072b2", "#d55e00"  # distinguishable with any colour vision (Okabe and Ito)


def load_toybox() -> Any:
    """Return the toybox pipeline, on a GPU if there is one."""
    pipe = DiffusionPipeline.from_pretrained(TOYBOX / "pipeline", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to("cuda" if torch.cuda.is_available() else "cpu")


def train(concept: Concept, output_dir: Path) -> tuple[ConceptProgress, ConceptProgress, float]:
    """Train a concept from its caption and from ``"*"``; return both results and the seconds taken.

    Concepts of one batch do not influence each other, so both are as if trained alone.
    """
    pipe = load_toybox()
    star = Concept(images=concept.images, placeholder_token="<star>", initializer="*")
    started = time.monotonic()
    both = SupremeInitTextualInversionTrainer(pipe, concepts=[concept, star], config=CONFIG)
    from_caption, from_star = both.train()
    seconds = time.monotonic() - started
    both.save(output_dir)
    return from_caption, from_star, seconds


def paired_difference(after: list[float], before: list[float]) -> dict[str, float]:
    """Return the mean of ``after - before`` over the fixed noises, its standard error, and their ratio."""
    differences = [a - b for a, b in zip(after, before, strict=True)]
    mean = statistics.fmean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return {"mean": mean, "standard_error": error, "in_standard_errors": mean / error}


def plot_losses(from_caption: ConceptProgress, from_star: ConceptProgress, path: Path) -> None:
    """Draw the fixed-noise losses of both starts."""
    figure, axes = plt.subplots(figsize=(6, 4), constrained_layout=True)
    starts = ((from_caption, FROM_CAPTION, from_caption.description), (from_star, FROM_STAR, "*"))
    for result, color, description in starts:
        losses = result.mean_validation_losses()
        axes.plot(list(losses), list(losses.values()), "o-", color=color, label=f'started from "{description}"')
    axes.set_xlabel("step")
    axes.set_ylabel("fixed-noise denoising loss (MSE of latents)")
    axes.set_title(f"One picture, {len(from_caption.validation_losses[0])} fixed noises and timesteps")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_pictures(rows: list[tuple[str, list[Image.Image]]], path: Path) -> None:
    """Draw labelled rows of pictures, one below the other."""
    figure, axes = plt.subplots(
        len(rows),
        NUM_PICTURES,
        figsize=(1.5 * NUM_PICTURES, 1.75 * len(rows)),
        gridspec_kw={"left": 0.02, "right": 0.98, "bottom": 0.01, "top": 0.97, "wspace": 0.04, "hspace": 0.2},
    )
    for (label, pictures), row in zip(rows, axes, strict=True):
        for index, cell in enumerate(row):
            cell.axis("off")
            if index < len(pictures):
                cell.imshow(pictures[index], interpolation="nearest")
        row[0].set_title(label, loc="left", fontsize=9)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Train, load, draw, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("out/demo"))
    output_dir: Path = parser.parse_args().output_dir

    concept = load_concepts(TOYBOX / "concepts", initializer_column="caption")[0]
    from_caption, from_star, seconds = train(concept, output_dir)
    token, caption = concept.placeholder_token, from_caption.description

    file = output_dir / "mug" / "learned_embeds.safetensors"
    pipe = load_toybox()
    pipe.load_multitoken_inversion(file)
    sentences = [sentence.format(token) for sentence in SENTENCES]
    prompts = {
        f'the caption, untrained: "a photo of {caption}"': f"a photo of {caption}",
        f'after {from_caption.step} steps: "a photo of {token}"': f"a photo of {token}",
        **{f'"{sentence}"': sentence for sentence in sentences},
    }
    given = Image.open(concept.images[0]).convert("RGB").resize((64, 64), Image.Resampling.LANCZOS)  # type: ignore[index, arg-type]
    rows = [("the picture given (at the size the model sees)", [given])]
    rows += [(label, draw(pipe, p, seed=0, num_images=NUM_PICTURES, **SAMPLING)) for label, p in prompts.items()]
    plot_pictures(rows, output_dir / "before_after.png")
    plot_losses(from_caption, from_star, output_dir / "loss.png")

    last = max(from_caption.validation_losses)
    metrics = {
        "steps": from_caption.step,
        "seconds": round(seconds, 1),
        "initializer_text": caption,
        "num_vectors": len(from_caption.rows),
        "file": str(file.relative_to(output_dir)),
        "validation_loss": {str(step): loss for step, loss in from_caption.mean_validation_losses().items()},
        "validation_loss_from_star": {str(step): loss for step, loss in from_star.mean_validation_losses().items()},
        "paired_differences": {
            "last step minus step 0": paired_difference(
                from_caption.validation_losses[last], from_caption.validation_losses[0]
            ),
            "caption minus * at step 0": paired_difference(
                from_caption.validation_losses[0], from_star.validation_losses[0]
            ),
        },
    }
    (output_dir / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    print(json.dumps(metrics, indent=1))
    print(f"look at {output_dir / 'before_after.png'} and {output_dir / 'loss.png'}")


if __name__ == "__main__":
    main()
