"""Builds the toybox from nothing, stage by stage, or measures what was built.

python examples/toybox/build.py               # all stages in order
python examples/toybox/build.py denoiser      # one stage; a killed one goes on where it was saved last
python examples/toybox/build.py --check       # measure the committed models, write quality.json and samples.png

A stage ends with the goals that it missed; a check that finds one exits with status 1.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from check import (
    GenerationSettings,
    Quality,
    measure_classifier,
    measure_denoiser,
    measure_judge,
    measure_quality,
    measure_vae,
    missed_goals,
    write_samples,
)
from check_describers import measure_captioner, measure_segmenter
from concepts import write_concepts
from example_scenes import write_scenes
from train_captioner import train_captioner
from train_classifier import train_classifier
from train_denoiser import train_denoiser
from train_judge import train_judge
from train_segmenter import train_segmenter
from train_text_encoder import train_text_encoder
from train_vae import train_vae
from views import write_views

TOYBOX_DIR = Path(__file__).parent
STAGES = (
    "vae",
    "text_encoder",
    "judge",
    "classifier",
    "denoiser",
    "captioner",
    "segmenter",
    "concepts",
    "scenes",
    "views",
)


def main() -> None:
    """Run the stages that were asked for."""
    arguments = _parse_arguments()
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    if arguments.check:
        sys.exit(_check())
    for stage in [arguments.stage] if arguments.stage else STAGES:
        for line in missed_goals(_run_stage(stage, arguments)):
            print(f"{stage}: goal missed: {line}")


def _check() -> int:
    settings = GenerationSettings()
    quality = measure_quality(TOYBOX_DIR, settings)
    (TOYBOX_DIR / "quality.json").write_text(json.dumps(quality, indent=2) + "\n")
    write_samples(TOYBOX_DIR, settings, TOYBOX_DIR / "samples.png")
    print(json.dumps(quality, indent=2))
    missed = missed_goals(quality)
    print("\n".join(f"goal missed: {line}" for line in missed) or "all goals are met")
    return int(bool(missed))


def _run_stage(stage: str, arguments: argparse.Namespace) -> Quality:
    """Run one stage and measure what it made; pictures are not measured."""
    work_dir: Path = arguments.work_dir
    if stage == "vae":
        train_vae(work_dir, arguments.vae_steps)
        return measure_vae(work_dir / "vae")
    if stage == "text_encoder":
        train_text_encoder(work_dir, arguments.text_encoder_steps)
        return {}
    if stage == "judge":
        train_judge(work_dir, TOYBOX_DIR / "judge", arguments.judge_steps)
        return measure_judge(TOYBOX_DIR / "judge", work_dir / "vae")
    if stage == "classifier":
        train_classifier(work_dir, TOYBOX_DIR / "classifier", arguments.classifier_steps)
        return measure_classifier(TOYBOX_DIR / "classifier")
    if stage == "denoiser":
        train_denoiser(work_dir, work_dir / "pipeline", arguments.denoiser_steps)
        _publish(work_dir / "pipeline")
        return measure_denoiser(TOYBOX_DIR / "pipeline", TOYBOX_DIR / "judge", GenerationSettings())
    if stage == "captioner":
        train_captioner(work_dir, TOYBOX_DIR / "classifier", work_dir / "captioner", arguments.captioner_steps)
        _publish(work_dir / "captioner")
        return measure_captioner(TOYBOX_DIR / "captioner")
    if stage == "segmenter":
        train_segmenter(work_dir, work_dir / "segmenter", arguments.segmenter_steps)
        _publish(work_dir / "segmenter")
        return measure_segmenter(TOYBOX_DIR / "segmenter", TOYBOX_DIR / "captioner")
    write = {"concepts": write_concepts, "scenes": write_scenes, "views": write_views}[stage]
    write(TOYBOX_DIR / stage)
    return {}


def _publish(model_dir: Path) -> None:
    """Put a finished model, and only a finished one, in the place of the committed one."""
    shutil.copytree(model_dir, TOYBOX_DIR / model_dir.name, dirs_exist_ok=True)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", nargs="?", choices=STAGES, help="default: all, in this order")
    parser.add_argument("--check", action="store_true", help="measure the committed models instead of training")
    parser.add_argument("--vae-steps", type=int, default=6_000)
    parser.add_argument("--text-encoder-steps", type=int, default=1_200)
    parser.add_argument("--denoiser-steps", type=int, default=7_000, help="more than before continues a finished run")
    parser.add_argument("--classifier-steps", type=int, default=1_500)
    parser.add_argument("--judge-steps", type=int, default=2_000)
    parser.add_argument("--captioner-steps", type=int, default=5_500)
    parser.add_argument("--segmenter-steps", type=int, default=8_600)
    parser.add_argument("--work-dir", type=Path, default=TOYBOX_DIR / ".work", help="drawings, caches, resume files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
