"""Which words "auto" takes, and what words are worth: the toys of the toybox, from pictures alone.

    python examples/compare_initializers.py --output_dir out/initializers --seeds 0 1 2
    python examples/compare_initializers.py --output_dir out/initializers --seeds 0 1 2 --choices_only

Words are compared on the object, which is the default, and on the whole picture. Nobody types words, except for three
candidates that "auto" should not take: the toy on its background, the toy as another toy, and the other toy's class.

Then rows are trained from each start at the package's defaults, and measured as by compare_settings.py. Writes
choices.md, worth.md and results.json; an interrupted run goes on where it was.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from experiment.learning import DRAWN, MEASURES, Recipe, run_recipe, values_of
from experiment.pipelines import TOYBOX, toybox_describers
from experiment.runs import Experiment, find_words, pictures_of
from experiment.settings import DEFAULT
from PIL import Image
from reproduce_paper import ReproduceArguments, set_up
from tqdm import tqdm

from diffusers_supreme_init import (
    Concept,
    Describers,
    InitializerProposal,
    Region,
    load_picture,
    propose_initializer,
    write_atomically,
)
from diffusers_supreme_init.metrics import mean_interval

sys.path.append(str(TOYBOX))  # the toybox is a folder of scripts
from captions import CAPTIONER_DETAILS, caption
from concepts import HELD_OUT, HeldOut
from world import CATEGORIES

COMPARED_ON = {"object": True, "whole picture": False}
"""`DescriberConfig.score_object`."""
SCORE_SAMPLES = (16, 32, 64)
OUTCOMES = {
    "background": "takes a background",
    "other_class": "takes another class",
    "label": "takes the class label alone",
}
"""What may be wrong with the words that "auto" takes."""

CAPTION, CLASS, AUTO, WHOLE, MASKED = "caption", "class", "auto", "auto, whole picture", "caption, masked loss"
STARTS = {
    CAPTION: ("object", "caption"),
    CLASS: ("object", "class"),
    AUTO: ("object", "auto"),
    WHOLE: ("whole picture", "auto"),
}
"""Where the words of each start come from: what candidates were compared on, and the method."""
MASKED_OPTIONS = {"masked_loss": True, "unmasked_weight": 0.25}
MIDDLE_INSET = 0.06
"""Of the box around a picture's middle in which the object is looked for, as the package does."""
STEPS = 100


def tempting_candidates(held_out: HeldOut, seed: int) -> list[str]:
    """Return words that "auto" should not take: the toy on its background, the toy as another, that other's class."""
    toys = [one.toy.category for one in HELD_OUT]
    other = toys[(toys.index(held_out.toy.category) + 1 + seed) % len(toys)]
    return [
        caption(held_out.toy, (*CAPTIONER_DETAILS, "background")),
        caption(replace(held_out.toy, category=other)),
        other,
    ]


def choose(experiment: Experiment, describers: Describers, seed: int, path: Path) -> list[dict[str, Any]]:
    """Let "auto" choose the words of every concept, or read what an earlier call has chosen.

    Returns:
        A record for each concept: ``concept``, ``text``, ``num_tied``, the names of `OUTCOMES`, and the ``candidates``
        with their losses.
    """
    if path.is_file():
        return list(json.loads(path.read_text(encoding="utf-8")))
    toys = {f"<{one.toy.category}>": one for one in HELD_OUT}
    config = replace(experiment.config, seed=seed)
    chosen = []
    for concept in experiment.concepts:
        held_out = toys[concept.placeholder_token]
        proposal = propose_initializer(
            pictures_of(concept)[0],
            "auto",
            pipe=experiment.pipe,
            describers=describers,
            config=config,
            candidates=tempting_candidates(held_out, seed),
        )
        chosen.append({"concept": concept.placeholder_token} | outcome(proposal, held_out.toy.category))
    write_atomically(path, json.dumps(chosen).encode())
    return chosen


def outcome(proposal: InitializerProposal, category: str) -> dict[str, Any]:
    """Return what "auto" took for a toy of a category, and what is wrong with it."""
    words = proposal.text.split()
    return {
        "text": proposal.text,
        "num_tied": proposal.num_tied,
        "background": "background" in words,
        "other_class": bool({*CATEGORIES} - {category} & {*words}),
        "label": proposal.text == category,
        "candidates": [{"text": one.text, "source": one.source, "losses": one.losses} for one in proposal.candidates],
    }


def object_masks(concepts: Sequence[Concept], describers: Describers) -> dict[str, Image.Image]:
    """Return what the segmenter finds in the middle of the first picture of each concept."""
    masks = {}
    for concept in concepts:
        image = load_picture(pictures_of(concept)[0]).image
        left, top = MIDDLE_INSET * image.width, MIDDLE_INSET * image.height
        middle = Region(box=(left, top, image.width - left, image.height - top))
        found = describers.segmenter.segment(image, middle).mask
        masks[concept.placeholder_token] = Image.fromarray(found.astype(np.uint8) * 255)
    return masks


def find_starts(experiment: Experiment, seed: int, folder: Path) -> dict[str, dict[str, str]]:
    """Return the words of every start, by placeholder tokens; other noises compare them than those that judge them."""
    found = {
        compared_on: find_words(experiment, describers_of(compared_on), seed, folder / f"words-{compared_on}.json")
        for compared_on in COMPARED_ON
    }
    return {
        start: {token: methods[method] for token, methods in found[compared_on].items()}
        for start, (compared_on, method) in STARTS.items()
    }


def train_starts(
    experiment: Experiment, starts: Mapping[str, Mapping[str, str]], seed: int, folder: Path
) -> list[dict[str, Any]]:
    """Train and measure all starts; equal words of a concept are trained once."""
    known: dict[tuple[str, str], list[dict[str, Any]]] = {}
    measured = []
    for start, words in starts.items():
        new = {token: text for token, text in words.items() if (token, text) not in known}
        recipe = Recipe(start, (0, STEPS) if start == CAPTION else (STEPS,), DEFAULT.options)
        for one in run_recipe(experiment, recipe, new, seed, folder / start) if new else []:
            known.setdefault((one["concept"], new[one["concept"]]), []).append(one)
        for token, text in words.items():
            own = [one for one in known[token, text] if one["step"] in recipe.steps]
            measured += [one | {"setting": start, "words": text} for one in own]
    return measured


def train_masked(experiment: Experiment, words: Mapping[str, str], seed: int, folder: Path) -> list[dict[str, Any]]:
    """Train and measure the caption's words with the object's mask as weight of the loss."""
    masks = object_masks(experiment.concepts, describers_of("object"))
    recipe = Recipe(MASKED, (STEPS,), {**DEFAULT.options, **MASKED_OPTIONS})
    measured = run_recipe(experiment, recipe, words, seed, folder / MASKED, masks=masks)
    return [one | {"words": words[one["concept"]]} for one in measured]


def choices_table(choices: Mapping[tuple[str, int], Sequence[Sequence[Mapping[str, Any]]]]) -> str:
    """Return how often "auto" took what it should not, one number for each seed.

    Args:
        choices: By what words were compared on, and by how many noises; for each seed the records of `choose`.
    """
    lines = [f"| compared on | noises | {' | '.join(OUTCOMES.values())} |", "|:---|---:|" + "---:|" * len(OUTCOMES)]
    for (compared_on, num_samples), of_seeds in choices.items():
        counts = [
            ", ".join(str(sum(one[name] for one in records)) for records in of_seeds) + f" of {len(of_seeds[0])}"
            for name in OUTCOMES
        ]
        lines.append(f"| {compared_on} | {num_samples} | {' | '.join(counts)} |")
    return "\n".join(lines) + "\n"


def worth_table(measured: Sequence[Mapping[str, Any]]) -> str:
    """Return the means of every start, and paired differences from the caption's rows after training."""
    captions = {(one["concept"], one["seed"]): one["words"] for one in measured if one["setting"] == CAPTION}
    lines = [
        f"| start | steps | seeds | other words | {' | '.join(MEASURES.values())} |",
        "|:---|---:|---:|---:|" + ":---|" * len(MEASURES),
    ]
    for start, step in dict.fromkeys((str(one["setting"]), int(one["step"])) for one in measured):
        own = [one for one in measured if (one["setting"], one["step"]) == (start, step)]
        others = sum(one["words"] != captions[one["concept"], one["seed"]] for one in own)
        seeds = {one["seed"] for one in own}
        paired = [one for one in measured if one["seed"] in seeds]
        cells = []
        for name in MEASURES:
            ours, theirs = (values_of(paired, *row, name) for row in ((start, step), (CAPTION, STEPS)))
            is_reference = (start, step) == (CAPTION, STEPS)
            cells.append(f"{ours.mean():.3g}" + ("" if is_reference else f" ({mean_interval(ours - theirs)})"))
        lines.append(f"| {start} | {step} | {len(seeds)} | {others} of {len(own)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def describers_of(compared_on: str, **options: Any) -> Describers:
    """Return the toybox's own describers."""
    return Describers(toybox_describers(score_object=COMPARED_ON[compared_on], **options))


def main(arguments: Sequence[str] | None = None) -> None:
    """Choose, train, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("out/initializers"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--num_concepts", type=int, help="Only the first so many toys.")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="Of the frozen weights.")
    parser.add_argument("--choices_only", action="store_true", help="Train nothing.")
    options = parser.parse_args(arguments)
    experiment = set_up(ReproduceArguments(num_concepts=options.num_concepts, dtype=options.dtype, **DRAWN))
    choose_all(experiment, options.seeds, options.output_dir)
    if not options.choices_only:
        train_all(experiment, options.seeds, options.output_dir)


def choose_all(experiment: Experiment, seeds: Sequence[int], output_dir: Path) -> None:
    """Let "auto" choose in every way that is compared; print the table."""
    choices: dict[tuple[str, int], list[list[dict[str, Any]]]] = {}
    for compared_on, num_samples in itertools.product(COMPARED_ON, SCORE_SAMPLES):
        describers = describers_of(compared_on, score_samples=num_samples)
        choices[compared_on, num_samples] = [
            choose(
                experiment,
                describers,
                seed,
                output_dir / "runs" / f"seed-{seed}" / f"{compared_on}-{num_samples}.json",
            )
            for seed in tqdm(seeds, desc=f"{compared_on}, {num_samples} noises", unit="seed")
        ]
    write_atomically(output_dir / "choices.md", choices_table(choices).encode())
    print(choices_table(choices))


def train_all(experiment: Experiment, seeds: Sequence[int], output_dir: Path) -> None:
    """Train every start, then the caption with a mask; write the results after each, and print the table."""
    measured: list[dict[str, Any]] = []

    def add(more: list[dict[str, Any]]) -> None:
        measured.extend(more)
        write_atomically(output_dir / "results.json", json.dumps(measured, indent=1).encode())
        write_atomically(output_dir / "worth.md", worth_table(measured).encode())

    folders = {seed: output_dir / "runs" / f"seed-{seed}" for seed in seeds}
    starts = {seed: find_starts(experiment, seed, folder) for seed, folder in folders.items()}
    for seed, folder in folders.items():
        add(train_starts(experiment, starts[seed], seed, folder))
    for seed, folder in folders.items():
        add(train_masked(experiment, starts[seed][CAPTION], seed, folder))
    print(worth_table(measured))


if __name__ == "__main__":
    main()
