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
from example_scenes import write_scenes
from train_captioner import train_captioner
from train_denoiser import train_denoiser
from train_segmenter import train_segmenter
from train_vae import train_vae
from train_vit import train_classifier, train_judge
from views import write_views

TOYBOX_DIR = Path(__file__).parent
STAGES = ("vae", "denoiser", "classifier", "judge", "captioner", "segmenter", "concepts", "scenes", "views")


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
        _publish(work_dir / "pipeline")
    elif stage == "classifier":
        train_classifier(work_dir, TOYBOX_DIR / "classifier", arguments.classifier_steps)
    elif stage == "judge":
        train_judge(work_dir, TOYBOX_DIR / "judge", arguments.judge_steps)
    elif stage == "captioner":
        train_captioner(work_dir, TOYBOX_DIR / "judge", work_dir / "captioner", arguments.captioner_steps)
        _publish(work_dir / "captioner")
    elif stage == "segmenter":
        train_segmenter(work_dir, work_dir / "segmenter", arguments.segmenter_steps)
        _publish(work_dir / "segmenter")
    elif stage == "concepts":
        write_concepts(TOYBOX_DIR / "concepts")
    elif stage == "scenes":
        write_scenes(TOYBOX_DIR / "scenes")
    elif stage == "views":
        write_views(TOYBOX_DIR / "views")


def _publish(model_dir: Path) -> None:
    """Put a finished model, and only a finished one, in the place of the committed one."""
    shutil.copytree(model_dir, TOYBOX_DIR / model_dir.name, dirs_exist_ok=True)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", nargs="?", choices=STAGES, help="default: all, in this order")
    parser.add_argument("--check", action="store_true", help="measure the committed models instead of training")
    parser.add_argument("--vae-steps", type=int, default=4_500)
    parser.add_argument("--denoiser-steps", type=int, default=5_800, help="more than before continues a finished run")
    parser.add_argument("--classifier-steps", type=int, default=1_500)
    parser.add_argument("--judge-steps", type=int, default=2_400)
    parser.add_argument("--captioner-steps", type=int, default=5_500)
    parser.add_argument("--segmenter-steps", type=int, default=4_600)
    parser.add_argument("--work-dir", type=Path, default=TOYBOX_DIR / ".work", help="drawings, caches, resume files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
