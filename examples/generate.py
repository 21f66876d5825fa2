"""Draw prompts with learned concepts.

    python examples/generate.py --concepts out/concept --prompts "a photo of <mug>" "a photo of <mug> on the beach"

Pictures are written to `--output_dir` as ``0-0.png`` (prompt, picture), beside ``prompts.txt``.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from transformers import HfArgumentParser

import diffusers_supreme_init
from diffusers_supreme_init import SupremeInitError, as_written

TOYBOX = Path(__file__).parent / "toybox"


@dataclass(kw_only=True)
class GenerateArguments:
    """What to draw."""

    prompts: list[str] = field(metadata={"help": "Prompts with placeholder tokens."})
    concepts: list[str] = field(default_factory=list, metadata={"help": "Files, folders or Hub ids of concepts."})
    pretrained_model_name_or_path: str = field(
        default=str(TOYBOX / "pipeline"), metadata={"help": "Hub id or folder of the pipeline; default: the toybox."}
    )
    dtype: str = field(default="float32", metadata={"choices": ["float32", "bfloat16", "float16"]})
    negative_prompt: str | None = field(default=None, metadata={"help": "What not to draw."})
    num_images_per_prompt: int = field(default=4, metadata={"help": "Pictures per prompt."})
    num_inference_steps: int = field(default=30, metadata={"help": "Steps of the sampler."})
    guidance_scale: float | None = field(default=None, metadata={"help": "Default: the pipeline's own."})
    seed: int = field(default=0, metadata={"help": "Picture k of every prompt starts from noise seed + k."})
    output_dir: str = field(default="out/pictures", metadata={"help": "Where pictures are written."})


def draw(
    pipe: DiffusionPipeline, prompt: str, *, seed: int, num_images: int = 1, **options: object
) -> list[Image.Image]:
    """Return pictures of one prompt; picture k starts from the noise of ``seed + k``."""
    generators = [torch.Generator("cpu").manual_seed(seed + index) for index in range(num_images)]
    return list(pipe(prompt, num_images_per_prompt=num_images, generator=generators, **options).images)


def main(arguments: list[str] | None = None) -> list[Path]:
    """Draw and save; return the pictures' paths."""
    parser = HfArgumentParser(GenerateArguments, description=__doc__)  # type: ignore[arg-type]
    (options,) = parser.parse_args_into_dataclasses(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipe = DiffusionPipeline.from_pretrained(
        options.pretrained_model_name_or_path, dtype=getattr(torch, options.dtype)
    ).to(device)
    try:
        for concept in pipe.load_multitoken_inversion(options.concepts):
            print(concept)
    except SupremeInitError as error:
        sys.exit(f"error: {error}")
    output_dir = Path(options.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    given = {name: getattr(options, name) for name in ("negative_prompt", "guidance_scale", "num_inference_steps")}
    sampling = as_written(pipe) | {name: value for name, value in given.items() if value is not None}
    paths = []
    for number, prompt in enumerate(options.prompts):
        pictures = draw(pipe, prompt, seed=options.seed, num_images=options.num_images_per_prompt, **sampling)
        for index, picture in enumerate(pictures):
            paths.append(output_dir / f"{number}-{index}.png")
            picture.save(paths[-1])
    lines = [f"{number}: {prompt}" for number, prompt in enumerate(options.prompts)]
    (output_dir / "prompts.txt").write_text(
        "\n".join([*lines, f"{diffusers_supreme_init.__version__=}"]) + "\n", encoding="utf-8"
    )
    print(f"{len(paths)} picture{'s' if len(paths) > 1 else ''} in {output_dir}")
    return paths


if __name__ == "__main__":
    main()
