"""Stage "vae": the autoencoder between 64 x 64 pictures and 16 x 16 latents."""

from pathlib import Path

import torch
from architecture import build_vae
from dataset import to_model_range, training_pictures
from diffusers import AutoencoderKL
from stage_loop import pick_device, step_generator, train
from torch.nn import functional

BATCH_SIZE = 16
LEARNING_RATE = 2e-3
# Light: the latents only need to be smooth and of one scale, blur would cost the trims and emblems.
KL_WEIGHT = 5e-7
# Patches whose mean color has to be right: without this a dusty yellow came back orange where it was patterned.
TINT_SIZE = 8
NUM_SCALING_PICTURES = 1_000


def train_vae(work_dir: Path, num_steps: int) -> None:
    """Train the autoencoder and save it, with its scaling factor, in the work folder.

    The scaling factor brings latents to unit standard deviation, as Stable Diffusion's 0.18215 does.
    """
    torch.manual_seed(0)
    device = pick_device()
    pictures = training_pictures(work_dir)
    vae = build_vae().to(device)

    def compute_loss(step: int) -> torch.Tensor:
        generator = step_generator(step)
        picked = torch.randint(len(pictures), (BATCH_SIZE,), generator=generator)
        batch = to_model_range(pictures[picked]).to(device)
        posterior = vae.encode(batch).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
        error = vae.decode(posterior.mean + posterior.std * noise).sample - batch
        tint = functional.avg_pool2d(error, TINT_SIZE).abs().mean()
        return error.abs().mean() + 0.5 * error.square().mean() + tint + KL_WEIGHT * posterior.kl().mean()

    average = train(vae, compute_loss, num_steps=num_steps, learning_rate=LEARNING_RATE, work_path=work_dir / "vae.pt")
    latents = encode(average, pictures[:NUM_SCALING_PICTURES])
    average.register_to_config(scaling_factor=1 / latents.std().item())
    average.save_pretrained(work_dir / "vae")


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: torch.Tensor, batch_size: int = 100) -> torch.Tensor:
    """Encode uint8 pictures ``(num_pictures, 3, 64, 64)`` to unscaled latents ``(num_pictures, 4, 16, 16)``."""
    batches = [to_model_range(batch).to(vae.device) for batch in pictures.split(batch_size)]
    return torch.cat([vae.encode(batch).latent_dist.mean for batch in batches])


def cached_latents(vae: AutoencoderKL, work_dir: Path) -> torch.Tensor:
    """Scaled latents of the training pictures, ``(num_toys, 4, 16, 16)``; encoded once."""
    path = work_dir / "latents.pt"
    if not path.exists():
        torch.save(encode(vae, training_pictures(work_dir)).cpu(), path)
    return torch.load(path, weights_only=True) * vae.config.scaling_factor
