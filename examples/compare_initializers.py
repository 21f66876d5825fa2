"""What the words are worth: trains every candidate that describers find for the 12 held-out toys, from pictures alone.

    python examples/compare_initializers.py --output_dir out/initializers

Writes table.md, the fixed-noise loss of "class", "caption" and "auto" after some numbers of steps, and metrics.json,
which also records how often the candidate that is best before training is the best after it, and the cost of a wrong
choice. All candidates of a toy train in one batch, each as if it were alone.
"""

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from describe import TOYBOX_OPTIONS
from diffusers import DiffusionPipeline
from tqdm import tqdm

from diffusers_supreme_init import (
    Concept,
    DescriberConfig,
    Describers,
    SupremeInitConfig,
    SupremeInitTextualInversionTrainer,
    load_concepts,
    propose_initializer,
)

TOYBOX = Path(__file__).parent / "toybox"
STEPS = (0, 10, 30, 100)
METHODS = ("class", "caption", "auto")
OTHER_SEED = 1000


def train_candidates(picture: Any, describers: Describers, config: SupremeInitConfig) -> dict[str, Any]:
    """Train each candidate of one picture.

    Returns:
        ``methods``: the words that each method takes; ``losses``: for each words the mean loss after each of `STEPS`.
    """
    pipe = load_toybox()
    # Other noises than those by which the result is judged: a choice must not profit from having seen them.
    choosing = replace(config, seed=config.seed + OTHER_SEED)
    proposals = {
        method: propose_initializer(picture, method, pipe=pipe, describers=describers, config=choosing)
        for method in METHODS
    }
    words = list(dict.fromkeys(candidate.text for p in proposals.values() for candidate in p.candidates))
    concepts = [
        Concept(images=picture, placeholder_token=f"<c{index}>", initializer=text) for index, text in enumerate(words)
    ]
    results = SupremeInitTextualInversionTrainer(pipe, concepts=concepts, config=config).train()
    losses = {
        text: {step: loss for step, loss in result.mean_validation_losses().items() if step in STEPS}
        for text, result in zip(words, results, strict=True)
    }
    return {"methods": {method: proposal.text for method, proposal in proposals.items()}, "losses": losses}


def choice_quality(toys: dict[str, Any], step: int) -> dict[str, float]:
    """Return how good the choice before training is after `step` steps, over all toys.

    Returns:
        ``agreement``: share of toys where the candidate that "auto" took is the best. ``regret_where_wrong``:
        how far it is above the best one on the other toys, on average. ``mean_regret_of_*``: the same over all toys,
        for what each method takes. ``mean_spread``: how far the worst candidate is above the best.
    """
    regrets: dict[str, list[float]] = {method: [] for method in METHODS}
    spreads = []
    for toy in toys.values():
        after = {text: losses[step] for text, losses in toy["losses"].items()}
        best = min(after.values())
        spreads.append(max(after.values()) - best)
        for method in METHODS:
            regrets[method].append(after[toy["methods"][method]] - best)
    wrong = [regret for regret in regrets["auto"] if regret > 0]
    return {
        "agreement": 1 - len(wrong) / len(toys),
        "regret_where_wrong": statistics.fmean(wrong) if wrong else 0.0,
        **{f"mean_regret_of_{method}": statistics.fmean(values) for method, values in regrets.items()},
        "mean_spread": statistics.fmean(spreads),
    }


def table(toys: dict[str, Any]) -> str:
    """Return the losses as a Markdown table: the mean over toys, then each toy."""
    header = "| toy | initializer | words | " + " | ".join(f"step {step}" for step in STEPS) + " |"
    lines = [header, "|:---|:---|:---|" + "---:|" * len(STEPS)]
    for method in METHODS:
        means = [
            statistics.fmean(toy["losses"][toy["methods"][method]][step] for toy in toys.values()) for step in STEPS
        ]
        lines.append(f"| **mean** | {method} | | " + " | ".join(f"**{mean:.4f}**" for mean in means) + " |")
    for name, toy in toys.items():
        for method in METHODS:
            words = toy["methods"][method]
            losses = " | ".join(f"{toy['losses'][words][step]:.4f}" for step in STEPS)
            lines.append(f"| {name} | {method} | {words} | {losses} |")
    return "\n".join(lines) + "\n"


def load_toybox() -> Any:
    """Return the toybox pipeline, on a GPU if there is one."""
    pipe = DiffusionPipeline.from_pretrained(TOYBOX / "pipeline", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    """Describe, train, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("out/initializers"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_concepts", type=int, default=None, help="only the first so many toys")
    arguments = parser.parse_args()

    config = SupremeInitConfig(
        max_train_steps=max(STEPS),
        validation_steps=[str(step) for step in STEPS],
        validation_samples=64,
        seed=arguments.seed,
        **TOYBOX_OPTIONS,
    )
    folders = {name: str(TOYBOX / name) for name in ("captioner", "classifier")}
    # The training that judges the words counts the whole picture, so they are compared on the whole picture.
    describers = Describers(
        DescriberConfig(**folders, score_samples=config.validation_samples, score_object=False)  # type: ignore[arg-type]
    )
    concepts = load_concepts(TOYBOX / "concepts", initializer="auto")[: arguments.num_concepts]
    toys = {}
    for concept in tqdm(concepts, desc="toys", unit="toy"):
        toys[concept.placeholder_token.strip("<>")] = train_candidates(concept.images, describers, config)

    metrics = {
        "seed": arguments.seed,
        "num_toys": len(toys),
        "mean_num_candidates": statistics.fmean(len(toy["losses"]) for toy in toys.values()),
        "choice_before_training_judged_after": {str(step): choice_quality(toys, step) for step in STEPS},
        "toys": toys,
    }
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    (arguments.output_dir / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    (arguments.output_dir / "table.md").write_text(table(toys), encoding="utf-8")
    print(table(toys))
    print(json.dumps(metrics["choice_before_training_judged_after"], indent=1))


if __name__ == "__main__":
    main()
