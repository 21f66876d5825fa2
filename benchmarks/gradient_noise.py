"""How much of a step's gradient is noise, and how many noises tell two texts apart, on the toybox.

    python benchmarks/gradient_noise.py --toys mug clock

Computes the gradient of a toy's rows, which start from its caption, at evenly spread timesteps for several noises and
their opposites, and makes steps of four samples from them in several ways. Given are the variance of a single step and
that of the mean of ten steps, as far back as AdamW's momentum looks, over the variance of independent draws.

Then it computes the losses of four texts in the same places, and gives the standard error of the difference between
the caption's and each other's, for a number of noises: each by itself at a timestep of its own, and in opposite pairs.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from diffusers_supreme_init import Concept, SupremeInitConfig
from diffusers_supreme_init.backbones import Backbone, backbone_for
from diffusers_supreme_init.objective.draws import DenoisingSample
from diffusers_supreme_init.objective.latents import PictureLatents, encode_concept
from diffusers_supreme_init.objective.losses import denoising_losses
from diffusers_supreme_init.objective.phases import frozen
from diffusers_supreme_init.pictures import TrainingPictures
from diffusers_supreme_init.training.beginning import begin_concept
from diffusers_supreme_init.training.preparation import check_concepts
from diffusers_supreme_init.training.rows import TrainableRows, concepts_added

TOYBOX = Path(__file__).parents[1] / "examples" / "toybox"
SNR_GAMMA = 5.0
GOLDEN_RATIO = (5**0.5 - 1) / 2
BATCH_SIZE, NUM_STEPS, WINDOW = 4, 2000, 10
DRAWS = ("independent", "pairs", "strata", "pairs in strata")
CPU = torch.device("cpu")


def samples_at(
    backbone: Backbone, latents: PictureLatents, prompt: str, place: int, num_places: int, num_noises: int
) -> list[DenoisingSample]:
    """Return samples at one timestep: for each noise itself and its opposite."""
    mean = latents.mean[0, 0]
    timestep = backbone.timestep_at((place + 0.5) / num_places, (mean.shape[-2], mean.shape[-1]))
    noises = torch.randn(num_noises, *mean.shape, generator=torch.Generator().manual_seed(place))
    return [
        DenoisingSample(mean, sign * noise, timestep, prompt, None, latents.geometry[0])
        for noise in noises
        for sign in (1, -1)
    ]


def gradients_of(backbone: Backbone, concept: Concept, num_places: int, num_noises: int) -> Tensor:
    """Return ``(num_places, num_noises, 2, numbers of the rows)``."""
    config = SupremeInitConfig()
    [initializations] = check_concepts(backbone, [concept], config).values()
    latents = encode(backbone, concept)
    begun = begin_concept(concept, config, initializations, latents, None)
    modules = [*(pair.encoder for pair in backbone.pairs), backbone.denoiser]
    with concepts_added(backbone, [begun]), frozen(modules):
        rows = TrainableRows(backbone.trained, {begun.placeholder_token: begun.initial_rows})
        try:
            found = []
            for place in range(num_places):
                for one in samples_at(backbone, latents, begun.validation_prompt, place, num_places, num_noises):
                    denoising_losses(backbone, [one], CPU, snr_gamma=SNR_GAMMA).sum().backward()
                    found.append(torch.cat([part.flatten() for part in rows.take_gradients().values()]))
        finally:
            rows.detach()
    backbone.pipe.unload_multitoken_inversion()
    return torch.stack(found).view(num_places, num_noises, 2, -1)


def steps_of(gradients: Tensor, draws: str, chance: torch.Generator) -> Tensor:
    """Return the gradients of steps, ``(NUM_STEPS, numbers of the rows)``."""
    num_places, num_noises = gradients.shape[:2]
    pairs, strata = "pairs" in draws, "strata" in draws
    num_groups = BATCH_SIZE // 2 if pairs else BATCH_SIZE
    begin = torch.rand((), generator=chance)
    shifts = (begin + GOLDEN_RATIO * torch.arange(NUM_STEPS)) % 1
    spread = ((torch.arange(num_groups) + shifts[:, None]) * num_places / num_groups).long()
    places = spread if strata else torch.randint(num_places, spread.shape, generator=chance)
    noises = torch.randint(num_noises, places.shape, generator=chance)
    signs = torch.randint(2, places.shape, generator=chance)
    return (gradients[places, noises].mean(2) if pairs else gradients[places, noises, signs]).mean(1)


def report_gradients(name: str, gradients: Tensor) -> None:
    """Print the table of variances."""
    chance, mean = torch.Generator().manual_seed(0), gradients.mean((0, 1, 2))
    variances = {}
    for draws in DRAWS:
        deviations = steps_of(gradients, draws, chance) - mean
        windows = deviations.view(-1, WINDOW, deviations.shape[-1]).mean(1)
        variances[draws] = [float(one.square().sum(1).mean()) for one in (deviations, windows)]
    first, *_ = variances.values()
    print(f"\n{name}: noise / signal of a step {first[0] / float(mean.square().sum()):.2g}\n")
    print("| draws | one step | ten steps |\n|:---|---:|---:|")
    for draws, values in variances.items():
        print(f"| {draws} | {' | '.join(f'{own / usual:.2f}' for own, usual in zip(values, first, strict=True))} |")


@torch.no_grad()
def report_losses(
    name: str, backbone: Backbone, latents: PictureLatents, texts: list[str], num_places: int, num_noises: int
) -> None:
    """Print the table of standard errors."""
    losses = torch.stack(
        [
            torch.stack(
                [
                    denoising_losses(
                        backbone,
                        samples_at(backbone, latents, f"a photo of {text}", place, num_places, num_noises),
                        CPU,
                        snr_gamma=SNR_GAMMA,
                    ).view(num_noises, 2)
                    for place in range(num_places)
                ]
            )
            for text in texts
        ]
    )
    differences = losses[1:] - losses[:1]
    print(f"\n{name}: standard error of the difference from {texts[0]!r}, 1e-5\n")
    print(f"| noises | | {' | '.join(texts[1:])} |\n|---:|:---|{'---:|' * len(texts[1:])}")
    for number in (8, 16, 32, 64):
        for how, values, count in (
            ("by themselves", differences.flatten(2), number),
            ("in pairs", differences.mean(3), number // 2),
        ):
            step = num_places // count
            errors = values[:, step // 2 :: step].var(2).sum(1).sqrt() / count
            print(f"| {number} | {how} | {' | '.join(f'{1e5 * float(error):.0f}' for error in errors)} |")


def encode(backbone: Backbone, concept: Concept) -> PictureLatents:
    """Return the latents of a concept's picture."""
    pictures = TrainingPictures([concept.images], None, masked=False)  # type: ignore[list-item]  # a single path
    return encode_concept(backbone, pictures, SupremeInitConfig(), progress_bar=False)


def toys(names: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the lines of the toybox's metadata.jsonl."""
    for line in (TOYBOX / "concepts" / "metadata.jsonl").read_text(encoding="utf-8").splitlines():
        if (toy := json.loads(line))["class"] in names:
            yield toy


def main() -> None:
    """Compute and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toys", nargs="+", default=["mug", "clock"])
    parser.add_argument("--places", type=int, default=64, help="Timesteps; a multiple of 64 for all noises.")
    parser.add_argument("--noises", type=int, default=6)
    options = parser.parse_args()
    backbone = backbone_for(DiffusionPipeline.from_pretrained(TOYBOX / "pipeline", dtype=torch.float32))
    for toy in toys(options.toys):
        concept = Concept(
            images=str(TOYBOX / "concepts" / toy["file_name"]), placeholder_token="<toy>", initializer=toy["caption"]
        )
        report_gradients(toy["class"], gradients_of(backbone, concept, options.places, options.noises))
        bare = toy["caption"].partition(" on a ")[0]
        texts = [bare, f"{bare} on a {toy['background']} background", f"a {toy['class']}", "a toy"]
        report_losses(toy["class"], backbone, encode(backbone, concept), texts, options.places, options.noises)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
