"""The studio as a Space of the Hugging Face Hub; on ZeroGPU or any other hardware."""

import os

try:
    import spaces  # first of all: it lends a GPU to each call of a decorated function, and replaces torch's own
except ImportError:
    spaces = None

import torch
from diffusers import DiffusionPipeline

from diffusers_supreme_init import DescriberConfig, Describers
from diffusers_supreme_init.studio import StudioSettings, open_studio

MODEL = os.environ.get("MODEL_ID", "stable-diffusion-v1-5/stable-diffusion-v1-5")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SECONDS_PER_CALL = 60
"""What ZeroGPU gives a call by default. Drawing and saving take some of it, so training gets two thirds."""


def studio_settings(model: str, describers: Describers) -> StudioSettings:
    """Load a model onto the GPU, and return a studio for it."""
    pipe = DiffusionPipeline.from_pretrained(model, dtype=torch.bfloat16 if DEVICE == "cuda" else torch.float32)
    pipe.set_progress_bar_config(disable=True)
    is_lent = spaces is not None
    return StudioSettings(
        pipe=pipe.to(DEVICE),
        describers=describers,
        model=model,
        sampling={"num_inference_steps": 25},
        login="space",
        seconds_per_call=SECONDS_PER_CALL * 2 / 3 if is_lent else None,
        **({"on_gpu": spaces.GPU(duration=SECONDS_PER_CALL)} if is_lent else {}),
    )


if __name__ == "__main__":
    models = Describers(DescriberConfig(), device=DEVICE)
    # Now, not in the first call: what a call loads is lost when its GPU is taken back.
    loaded = (models.captioner, models.classifier, models.segmenter)
    with open_studio(studio_settings(MODEL, models), server_name="0.0.0.0", server_port=7860) as studio:
        print(studio.url)
        studio.wait()
