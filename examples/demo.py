"""One picture in, a concept out: what `make demo` runs, on the toybox, without network or GPU.

Nobody types a word: classifier and captioner describe the picture, the words with the lowest loss are taken. Trains
``<mug>`` from them and, in the same batch, from ``"*"``, loads the file into a fresh pipeline and writes to
`--output_dir`:

    before_after.png  the picture given, its words alone, the learned words, the learned words in new sentences
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
    DescriberConfig,
    Describers,
    InitializerProposal,
    SupremeInitConfig,
    SupremeInitTextualInversionTrainer,
    propose_initializer,
)

mpl.use("Agg")
from matplotlib import pyplot as plt

TOYBOX = Path(__file__).parent / "toybox"
PICTURE = TOYBOX / "concepts" / "mug.png"
TOKEN = "<mug>"
CONFIG = SupremeInitConfig(validation_samples=64, validation_steps=["0", "5", "10", "every:20"])
SAMPLING = {"num_inference_steps": 30, "guidance_scale": 4.0}
NUM_PICTURES = 4
SENTENCES = (
    "a dark photo of {}",
    "a photo of {} with green trim",
    "a photo of {} on a gray background",
)
FROM_WORDS, FROM_STAR = "#0072b2", "#d55e00"  # distinguishable with any colour vision (Okabe and Ito)


def load_toybox() -> Any:
    """Return the toybox pipeline, on a GPU if there is one."""
    pipe = DiffusionPipeline.from_pretrained(TOYBOX / "pipeline", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to("cuda" if torch.cuda.is_available() else "cpu")


def describe(pipe: Any) -> InitializerProposal:
    """Ask the toybox's classifier and captioner, and compare what they say by the loss of the untouched model."""
    config = DescriberConfig(
        captioner=str(TOYBOX / "captioner"),
        classifier=str(TOYBOX / "classifier"),
        # So that what is compared is the loss of step 0, which the figures show: of the whole picture.
        score_samples=CONFIG.validation_samples,
        score_object=False,
    )
    return propose_initializer(PICTURE, "auto", pipe=pipe, describers=Describers(config), config=CONFIG)


def train(pipe: Any, words: str, output_dir: Path) -> tuple[ConceptProgress, ConceptProgress, float]:
    """Train on the picture from words and from ``"*"``; return both results and the seconds taken.

    Concepts of one batch do not influence each other, so both are as if trained alone.
    """
    concepts = [
        Concept(images=PICTURE, placeholder_token=TOKEN, initializer=words),
        Concept(images=PICTURE, placeholder_token="<star>", initializer="*"),
    ]
    started = time.monotonic()
    both = SupremeInitTextualInversionTrainer(pipe, concepts=concepts, config=CONFIG)
    from_words, from_star = both.train()
    seconds = time.monotonic() - started
    both.save(output_dir, overwrite=True)
    return from_words, from_star, seconds


def paired_difference(after: list[float], before: list[float]) -> dict[str, float]:
    """Return the mean of ``after - before`` over the fixed noises, its standard error, and their ratio."""
    differences = [a - b for a, b in zip(after, before, strict=True)]
    mean = statistics.fmean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return {"mean": mean, "standard_error": error, "in_standard_errors": mean / error}


def plot_losses(from_words: ConceptProgress, from_star: ConceptProgress, path: Path) -> None:
    """Draw the fixed-noise losses of both starts."""
    figure, axes = plt.subplots(figsize=(6, 4), constrained_layout=True)
    starts = ((from_words, FROM_WORDS, from_words.description), (from_star, FROM_STAR, "*"))
    for result, color, description in starts:
        losses = result.mean_validation_losses()
        axes.plot(list(losses), list(losses.values()), "o-", color=color, label=f'started from "{description}"')
    axes.set_xlabel("step")
    axes.set_ylabel("fixed-noise denoising loss (MSE of latents)")
    axes.set_title(f"One picture, {len(from_words.validation_losses[0])} fixed noises and timesteps")
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

    pipe = load_toybox()
    proposal = describe(pipe)
    print(f"{proposal.table()}\n")
    from_words, from_star, seconds = train(pipe, proposal.text, output_dir)

    file = output_dir / "mug" / "learned_embeds.safetensors"
    pipe = load_toybox()
    pipe.load_multitoken_inversion(file)
    sentences = [sentence.format(TOKEN) for sentence in SENTENCES]
    prompts = {
        f'its words alone: "{proposal.text}"': f"a photo of {proposal.text}",
        f'after {from_words.step} steps: "a photo of {TOKEN}"': f"a photo of {TOKEN}",
        **{f'"{sentence}"': sentence for sentence in sentences},
    }
    given = Image.open(PICTURE).convert("RGB").resize((64, 64), Image.Resampling.LANCZOS)
    rows = [("the picture given (at the size the model sees)", [given])]
    rows += [(label, draw(pipe, p, seed=0, num_images=NUM_PICTURES, **SAMPLING)) for label, p in prompts.items()]
    plot_pictures(rows, output_dir / "before_after.png")
    plot_losses(from_words, from_star, output_dir / "loss.png")

    last = max(from_words.validation_losses)
    metrics = {
        "steps": from_words.step,
        "seconds": round(seconds, 1),
        "initializer_text": proposal.text,
        "candidates": [{"text": c.text, "source": c.source, "loss": c.loss} for c in proposal.candidates],
        "num_vectors": len(from_words.rows["text_encoder"]),
        "file": str(file.relative_to(output_dir)),
        "validation_loss": {str(step): loss for step, loss in from_words.mean_validation_losses().items()},
        "validation_loss_from_star": {str(step): loss for step, loss in from_star.mean_validation_losses().items()},
        "paired_differences": {
            "last step minus step 0": paired_difference(
                from_words.validation_losses[last], from_words.validation_losses[0]
            ),
            "words minus * at step 0": paired_difference(
                from_words.validation_losses[0], from_star.validation_losses[0]
            ),
        },
    }
    (output_dir / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    print(json.dumps(metrics, indent=1))
    print(f"look at {output_dir / 'before_after.png'} and {output_dir / 'loss.png'}")


if __name__ == "__main__":
    main()
