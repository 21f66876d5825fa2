"""One picture in, a concept out: what `make demo` runs, on the toybox, without network or GPU.

One click, and nobody types a word: classifier and captioner describe the picture, the words with the lowest loss on
the object are taken, the segmenter finds what was clicked. Trains ``<mug>`` from them and, in the same batch, from
``"*"``, on the object rather than on the picture, loads the files into a fresh pipeline and writes to `--output_dir`:

    before_after.png  the picture given; drawn from "*", from the words alone, from the learned words; and three edits
    loss.png          fixed-noise loss of both starts
    metrics.json      losses, and how many details of the picture given the toybox's judge finds in the drawn ones
    mug/, star/       both concepts, as `save` writes them
"""

import argparse
import json
import math
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from experiment.pipelines import TOYBOX, draw, load_pipeline, toybox_describers
from PIL import Image

from diffusers_supreme_init import (
    Concept,
    ConceptProgress,
    Describers,
    Region,
    SheetRow,
    SupremeInitConfig,
    SupremeInitTextualInversionTrainer,
    draw_sheet,
    propose_initializer,
)
from diffusers_supreme_init.commands import TOYBOX_GUIDANCE_SCALE, TOYBOX_TRAINING

sys.path.append(str(TOYBOX))  # the toybox is a folder of scripts
from judging import TOLD_DETAILS, UNTOLD_DETAILS, DetailsKept, Judge, chance  # found by the line above

mpl.use("Agg")
from matplotlib import pyplot as plt  # after the choice of its backend

PICTURE = TOYBOX / "concepts" / "mug.png"
TOKEN, STAR_TOKEN = "<mug>", "<star>"
CLICK = Region(points=(80, 180))  # on the mug's body
CONFIG = SupremeInitConfig(
    masked_loss=True,
    unmasked_weight=0.25,
    validation_samples=32,
    validation_steps=["0", "5", "10", "every:20"],
    **TOYBOX_TRAINING,
)
SAMPLING = {"num_inference_steps": 30, "guidance_scale": TOYBOX_GUIDANCE_SCALE}
NUM_JUDGED, NUM_SHOWN = 12, 5
EDITS = ("with yellow trim", "with a purple heart", "on a gray background")
FROM_WORDS, FROM_STAR = "#0072b2", "#d55e00"  # distinguishable with any colour vision (Okabe and Ito)


def load_toybox() -> Any:
    """Return the toybox pipeline, on a GPU if there is one."""
    return load_pipeline().to("cuda" if torch.cuda.is_available() else "cpu")


def train(
    pipe: Any, describers: Describers, words: str, output_dir: Path
) -> tuple[ConceptProgress, ConceptProgress, float]:
    """Train on what was clicked, from words and from ``"*"``; return both results and the seconds taken.

    Each start gets the norms that suit it: ``"*"`` learns less where they are kept (``docs/settings.md``).
    """
    started, results = time.monotonic(), []
    for name, token, start, keeps_norm in (("mug", TOKEN, words, True), ("star", STAR_TOKEN, "*", False)):
        trainer = SupremeInitTextualInversionTrainer(
            pipe,
            concepts=[
                Concept(images=PICTURE, region=CLICK, train_on="image", placeholder_token=token, initializer=start)
            ],
            describers=describers,
            config=replace(CONFIG, preserve_norm=keeps_norm),
        )
        results += trainer.train()
        trainer.save(output_dir / name, overwrite=True)
    from_words, from_star = results
    return from_words, from_star, time.monotonic() - started


def draw_all(words: str, output_dir: Path) -> dict[str, list[Image.Image]]:
    """Load both concepts into a fresh pipeline and draw the same seeds from every start and edit."""
    pipe = load_toybox()
    pipe.load_multitoken_inversion([output_dir / "mug", output_dir / "star"])
    prompts = {
        "star": f"a photo of {STAR_TOKEN}",
        "words_alone": f"a photo of {words}",
        "learned": f"a photo of {TOKEN}",
        **{edit: f"a photo of {TOKEN} {edit}" for edit in EDITS},
    }
    return {
        name: draw(pipe, prompt, seed=0, num_images=NUM_SHOWN if name in EDITS else NUM_JUDGED, **SAMPLING)
        for name, prompt in prompts.items()
    }


def show(given: Image.Image, drawn: dict[str, list[Image.Image]], words: str, num_steps: int) -> Image.Image:
    """Draw the sheet: each column starts from the same noise."""
    rows = [
        SheetRow(title="the picture given", pictures=[given]),
        SheetRow(title='learned from "*"', note=f"{num_steps} steps", pictures=drawn["star"][:NUM_SHOWN]),
        SheetRow(title="its words alone", note=f'"{words}"', pictures=drawn["words_alone"][:NUM_SHOWN]),
        SheetRow(title=f"learned: {TOKEN}", note=f"{num_steps} steps later", pictures=drawn["learned"][:NUM_SHOWN]),
    ]
    return draw_sheet([*rows, *(SheetRow(title=f'"{TOKEN} {edit}"', pictures=drawn[edit]) for edit in EDITS)])


def judge_details(given: Image.Image, drawn: dict[str, list[Image.Image]]) -> dict[str, dict[str, float]]:
    """Return the mean share of the given picture's details in the drawn ones, and what chance would give."""
    judge = Judge(TOYBOX / "judge")
    (shown,) = judge.read([given])
    shares: dict[str, dict[str, float]] = {}
    for key, names in (("untold_kept", UNTOLD_DETAILS), ("told_kept", TOLD_DETAILS)):
        kept = DetailsKept(judge, key, key, names)
        shares[key] = {
            name: round(kept.compare(drawn[name], [given]).mean().item(), 4)
            for name in ("words_alone", "learned", "star")
        }
        shares[key]["chance"] = round(chance({name: value for name, value in shown.items() if name in names}), 4)
    return shares


def paired_difference(after: list[float], before: list[float]) -> dict[str, float]:
    """Return the mean of ``after - before`` over the fixed noises, its standard error, and their ratio.

    Opposite noises, 2k and 2k + 1, are one measurement.
    """
    every = [a - b for a, b in zip(after, before, strict=True)]
    differences = [statistics.fmean(pair) for pair in zip(every[::2], every[1::2], strict=True)]
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


def summary(details: dict[str, dict[str, float]], num_steps: int, seconds: float) -> str:
    """Say in three sentences what was learned, what of it the words knew, and what it cost."""
    untold, told = details["untold_kept"], details["told_kept"]
    return (
        f"Of what the picture shows and its words do not say, drawings from the words alone have "
        f"{untold['words_alone']:.0%} (chance: {untold['chance']:.0%}), "
        f"after {num_steps} steps {untold['learned']:.0%}.\n"
        f"Of what the words do say, the words alone keep {told['words_alone']:.0%} and the learned ones "
        f"{told['learned']:.0%}.\n"
        f'From "*", the classic start, {num_steps} steps keep {untold["star"]:.0%} and {told["star"]:.0%}; '
        f"both trainings together took {seconds:.0f} s."
    )


def main() -> None:
    """Describe, train, load, draw, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("out/demo"))
    output_dir: Path = parser.parse_args().output_dir

    given = Image.open(PICTURE).convert("RGB")
    pipe, describers = load_toybox(), Describers(toybox_describers(score_samples=CONFIG.validation_samples))
    proposal = propose_initializer(
        PICTURE, "auto", pipe=pipe, describers=describers, config=SupremeInitConfig(**TOYBOX_TRAINING)
    )
    print(f"{proposal.table()}\n")
    from_words, from_star, seconds = train(pipe, describers, proposal.text, output_dir)
    drawn = draw_all(proposal.text, output_dir)
    details = judge_details(given, drawn)
    show(given, drawn, proposal.text, from_words.step).save(output_dir / "before_after.png")
    plot_losses(from_words, from_star, output_dir / "loss.png")

    last = max(from_words.validation_losses)
    words_at, star_at = from_words.validation_losses, from_star.validation_losses
    metrics = {
        "details": details,
        "num_judged_pictures": NUM_JUDGED,
        "steps": from_words.step,
        "seconds": round(seconds, 1),
        "initializer_text": proposal.text,
        "candidates": [{"text": c.text, "source": c.source, "loss": c.loss} for c in proposal.candidates],
        "num_vectors": len(from_words.rows["text_encoder"]),
        "file": "mug/learned_embeds.safetensors",
        "validation_loss": {str(step): loss for step, loss in from_words.mean_validation_losses().items()},
        "validation_loss_from_star": {str(step): loss for step, loss in from_star.mean_validation_losses().items()},
        "paired_differences": {
            "last step minus step 0": paired_difference(words_at[last], words_at[0]),
            "words minus * at step 0": paired_difference(words_at[0], star_at[0]),
        },
    }
    (output_dir / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    print(f"\n{summary(details, from_words.step, seconds)}\n\nLook at {output_dir / 'before_after.png'}.")


if __name__ == "__main__":
    main()
