"""The paper's experiment: does a concept learn faster from a caption than from a class label, and from that than "*"?

    python examples/reproduce_paper.py --output_dir out/reproduce --seeds 0
    python examples/reproduce_paper.py --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 \
        --images photos --lpips published --sifid published --clip openai/clip-vit-base-patch32 \
        --dinov2 facebook/dinov2-small

Without options it runs on the toybox, which needs neither network nor GPU. `--images` is a folder with metadata.jsonl
(`file_name`, `placeholder_token`), one or more pictures per concept: the first is the picture of the paper's
experiment, the last of three or more is never learned from. An interrupted run goes on where it was.

Writes report.md, results.csv and the figures; below `runs/` is what it resumes from.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from experiment.pipelines import (
    TOYBOX,
    TOYBOX_PIPELINE,
    is_toybox,
    load_pipeline,
    toybox_describers,
    toybox_options,
)
from experiment.report import Facts, write_report
from experiment.runs import Experiment, Measurement, find_words, run_group, seconds_per_step
from experiment.settings import BEYOND, DEFAULT, PAPER, Group
from transformers import HfArgumentParser

from diffusers_supreme_init import (
    EDITING_PROMPTS,
    PAPER_SETTINGS,
    ConfigError,
    DescriberConfig,
    Describers,
    SupremeInitConfig,
    SupremeInitError,
    check_writable,
    load_concepts,
    write_atomically,
)
from diffusers_supreme_init.commands import TOYBOX_GUIDANCE_SCALE
from diffusers_supreme_init.metrics import (
    LPIPS,
    SIFID,
    CLIPEmbedder,
    CLIPImageSimilarity,
    CLIPTextSimilarity,
    DINOv2Similarity,
    FidelityMetric,
    PromptMetric,
)

TOYBOX_EDITING_PROMPTS = (
    *(f"a photo of a {{}} on a {color} background" for color in ("mint", "lavender", "gray")),
    "a photo of a {} with green trim",
    "a photo of a {} with a blue moon",
)
PUBLISHED = "published"
DESCRIBERS = ("captioner", "classifier", "segmenter")
FREE_OPTIONS = frozenset({"seeds", "output_dir", "paper_only"})
"""Options that earlier results may differ in."""


@dataclass(kw_only=True)
class ReproduceArguments:
    """What is compared, on what, and how it is measured."""

    pretrained_model_name_or_path: str = field(
        default=TOYBOX_PIPELINE, metadata={"help": "Hub id or folder of the pipeline; default: the toybox."}
    )
    dtype: str = field(
        default="float32",
        metadata={"help": "Precision of the frozen weights.", "choices": ["float32", "bfloat16", "float16"]},
    )
    images: str = field(
        default=str(TOYBOX / "views"),
        metadata={"help": "Folder with metadata.jsonl; default: the toys of the toybox."},
    )
    num_concepts: int | None = field(default=None, metadata={"help": "Only the first so many concepts."})
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Seeds; each is a whole experiment."})
    max_train_steps: int = field(default=150, metadata={"help": "Steps of the paper's settings."})
    steps_beyond: int = field(default=100, metadata={"help": "Steps of the comparisons that go beyond the paper."})
    paper_only: bool = field(
        default=False,
        metadata={"help": "Leave out what goes beyond the paper, but for its experiment with the default settings."},
    )
    learning_rate: float | None = field(default=None, metadata={"help": "Default: the paper's, 2e-3."})
    train_batch_size: int = field(default=PAPER_SETTINGS["train_batch_size"], metadata={"help": "As in training."})
    max_forward_batch_size: int = field(default=16, metadata={"help": "Samples that go through the model at once."})
    validation_samples: int = field(default=32, metadata={"help": "Noises of the fixed-noise loss."})
    resolution: int | None = field(default=None, metadata={"help": "Side of the pictures; default: the model's."})
    num_image_seeds: int = field(default=1, metadata={"help": "Pictures per prompt and run."})
    num_inference_steps: int | None = field(default=None, metadata={"help": "Default: 15 for the toybox, else 30."})
    guidance_scale: float | None = field(default=None, metadata={"help": "Default: 2 for the toybox, else 7.5."})
    lpips: str | None = field(default=None, metadata={"help": "VGG16 weights for LPIPS: a file, or 'published'."})
    sifid: str | None = field(default=None, metadata={"help": "Inception weights for SIFID: a file, or 'published'."})
    clip: str | None = field(default=None, metadata={"help": "CLIP for CLIP-I and CLIP-T: Hub id or folder."})
    dinov2: str | None = field(default=None, metadata={"help": "DINOv2 for DINOv2-I: Hub id or folder."})
    output_dir: str = field(default="out/reproduce", metadata={"help": "Where everything is written."})

    def __post_init__(self) -> None:
        for name in ("max_train_steps", "steps_beyond", "num_image_seeds", "num_concepts"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: expected at least 1, got {value}")
        if len(set(self.seeds)) != len(self.seeds) or min(self.seeds, default=-1) < 0:
            raise ConfigError(f"seeds: expected different numbers of at least 0, got {self.seeds}")


def requested_metrics(run: ReproduceArguments, device: torch.device) -> list[FidelityMetric | PromptMetric]:
    """Return the metrics whose weights are there, the paper's first, and the toybox's own.

    Raises:
        MetricError: Weights are missing or others.
    """
    metrics: list[FidelityMetric | PromptMetric] = []
    if run.lpips is not None:
        metrics.append(LPIPS(None if run.lpips == PUBLISHED else run.lpips, device=device))
    if run.sifid is not None:
        metrics.append(SIFID(None if run.sifid == PUBLISHED else run.sifid, device=device))
    if is_toybox(run.pretrained_model_name_or_path):
        sys.path.append(str(TOYBOX))  # the toybox is a folder of scripts
        from judging import toybox_metrics

        metrics += toybox_metrics(TOYBOX)
    if run.clip is not None:
        embedder = CLIPEmbedder(run.clip, device=device)
        metrics += [CLIPImageSimilarity(embedder), CLIPTextSimilarity(embedder)]
    if run.dinov2 is not None:
        metrics.append(DINOv2Similarity(run.dinov2, device=device))
    return metrics


def set_up(run: ReproduceArguments) -> Experiment:
    """Load the model, the concepts and the metrics.

    Raises:
        SupremeInitError: Something is missing or unusable.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    concepts = load_concepts(run.images, initializer="*")[: run.num_concepts]
    metrics = requested_metrics(run, device)
    pipe = load_pipeline(run.pretrained_model_name_or_path, run.dtype).to(device)
    pipe.set_progress_bar_config(disable=True)
    names = ("max_train_steps", "learning_rate", "train_batch_size", "max_forward_batch_size", "validation_samples")
    given = {name: getattr(run, name) for name in (*names, "resolution")}
    config = SupremeInitConfig.paper(**{name: value for name, value in given.items() if value is not None})
    on_toybox = is_toybox(run.pretrained_model_name_or_path)
    config = replace(config, **toybox_options(run.pretrained_model_name_or_path))
    num_inference_steps, guidance_scale = (15, TOYBOX_GUIDANCE_SCALE) if on_toybox else (30, 7.5)
    if run.num_inference_steps is not None:
        num_inference_steps = run.num_inference_steps
    if run.guidance_scale is not None:
        guidance_scale = run.guidance_scale
    return Experiment(
        pipe=pipe,
        concepts=concepts,
        metrics=metrics,
        config=config,
        editing_prompts=TOYBOX_EDITING_PROMPTS if on_toybox else EDITING_PROMPTS,
        sampling={
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
        },
        num_image_seeds=run.num_image_seeds,
        steps_beyond=min(run.steps_beyond, run.max_train_steps),
    )


def requested_groups(run: ReproduceArguments, experiment: Experiment) -> list[Group]:
    """Return the groups to train; those that the pictures do not allow are left out, and a line says so."""
    groups = [PAPER]
    for group in (DEFAULT,) if run.paper_only else BEYOND:
        if group.all_pictures and not experiment.has_more_pictures:
            print(f"left out: {group.name}, for which every concept needs three pictures")
        elif group.options.get("masked_loss") and not experiment.has_masks:
            print(f"left out: {group.name}, for which every concept needs masks")
        else:
            groups.append(group)
    return groups


def run_all(run: ReproduceArguments, describer_config: DescriberConfig, command: str) -> Path:
    """Train, measure and report; return the report.

    Raises:
        SupremeInitError: Something is missing or unusable, or earlier results were made with other options.
    """
    output_dir = check_writable(run.output_dir)
    options = {**asdict(run), "describers": asdict(describer_config)}
    options = {name: value for name, value in options.items() if name not in FREE_OPTIONS}
    options_path = output_dir / "runs" / "options.json"
    check_options(options, options_path)
    experiment = set_up(run)
    # Not before: what cannot be set up leaves nothing behind.
    write_atomically(options_path, json.dumps(options, indent=1).encode())
    groups = requested_groups(run, experiment)
    measurements: list[Measurement] = []
    for seed in run.seeds:
        folder = output_dir / "runs" / f"seed-{seed}"
        words = find_words(experiment, Describers(describer_config), seed, folder / "words.json")
        for group in groups:
            print(f"seed {seed}: {group.name}")
            measurements += run_group(experiment, group, words, seed, folder / group.name)
    facts = Facts(
        command=command,
        model="the toybox" if is_toybox(run.pretrained_model_name_or_path) else run.pretrained_model_name_or_path,
        pictures="the toys of the toybox" if run.images == str(TOYBOX / "views") else Path(run.images).name,
        options={**_told(experiment), **experiment.sampling},
        labels={metric.name: metric.label for metric in experiment.metrics},
        seconds=seconds_per_step(experiment),
        steps_beyond=experiment.steps_beyond,
    )
    return write_report(measurements, facts, output_dir)


def check_options(options: Mapping[str, Any], path: Path) -> None:
    """Check that earlier results in the same folder were made with the same options.

    Raises:
        ConfigError: They were not.
    """
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else options
    different = [name for name, value in options.items() if earlier.get(name) != value]
    if different:
        raise ConfigError(
            f"output_dir: expected results of the same options in {str(path.parents[1])!r}, got others of "
            f"{', '.join(different)}; choose another output_dir"
        )


def _told(experiment: Experiment) -> dict[str, Any]:
    names = (*PAPER_SETTINGS, "snr_gamma", "flip_probability")
    return {name: getattr(experiment.config, name) for name in (*names, "validation_samples")}


def main(arguments: Sequence[str] | None = None) -> Path:
    """Parse, run; return the report."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        parser = HfArgumentParser((ReproduceArguments, DescriberConfig), description=__doc__)  # type: ignore[arg-type]
        if not any(word.startswith("--pretrained") for word in given):
            parser.set_defaults(**{name: getattr(toybox_describers(), name) for name in DESCRIBERS})
        run, describer_config = parser.parse_args_into_dataclasses(given)
        report = run_all(run, describer_config, " ".join(["python examples/reproduce_paper.py", *given]))
    except SupremeInitError as error:
        sys.exit(f"error: {error}")
    print(f"look at {report}")
    return report


if __name__ == "__main__":
    main()
