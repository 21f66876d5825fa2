"""Builds the toybox from nothing, stage by stage, or measures what was built.

python examples/toybox/build.py               # all stages in order
python examples/toybox/build.py denoiser      # one stage; a killed one goes on where it was saved last
python examples/toybox/build.py --check       # measure the committed models, write quality.json and samples.png
"""

import argparse
import json
import shutil
from pathlib import Path

from check import GenerationSettings, measure_quality, write_samples
from concepts import write_concepts
from train_denoiser import train_denoiser
from train_vae import train_vae
from train_vit import train_classifier, train_judge

TOYBOX_DIR = Path(__file__).parent
STAGES = ("vae", "denoiser", "classifier", "judge", "concepts")


def main() -> None:
    """Run the stages that were asked for."""
    arguments = _parse_arguments()
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    if arguments.check:
        settings = GenerationSettings()
        quality = measure_quality(TOYBOX_DIR, settings)
        (TOYBOX_DIR / "quality.json").write_text(json.dumps(quality, indent=2) + "\n")
        write_samples(TOYBOX_DIR, settings, TOYBOX_DIR / "samples.png")
        print(json.dumps(quality, indent=2))
        return
    for stage in [arguments.stage] if arguments.stage else STAGES:
        _run_stage(stage, arguments)


def _run_stage(stage: str, arguments: argparse.Namespace) -> None:
    work_dir = arguments.work_dir
    if stage == "vae":
        train_vae(work_dir, arguments.vae_steps)
    elif stage == "denoiser":
        train_denoiser(work_dir, work_dir / "pipeline", arguments.denoiser_steps)
        # Only a finished model takes the place of the committed one.
        shutil.copytree(work_dir / "pipeline", TOYBOX_DIR / "pipeline", dirs_exist_ok=True)
    elif stage == "classifier":
        train_classifier(work_dir, TOYBOX_DIR / "classifier", arguments.classifier_steps)
    elif stage == "judge":
        train_judge(work_dir, TOYBOX_DIR / "judge", arguments.judge_steps)
    elif stage == "concepts":
        write_concepts(TOYBOX_DIR / "concepts")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", nargs="?", choices=STAGES, help="default: all, in this order")
    parser.add_argument("--check", action="store_true", help="measure the committed models instead of training")
    parser.add_argument("--vae-steps", type=int, default=4_500)
    parser.add_argument("--denoiser-steps", type=int, default=5_800, help="more than before continues a finished run")
    parser.add_argument("--classifier-steps", type=int, default=1_500)
    parser.add_argument("--judge-steps", type=int, default=2_400)
    parser.add_argument("--work-dir", type=Path, default=TOYBOX_DIR / ".work", help="drawings, caches, resume files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
