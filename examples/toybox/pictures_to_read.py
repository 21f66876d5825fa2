"""Pictures for classifier and judge: drawings, and drawings as the autoencoder gives them back."""

from pathlib import Path

import torch
from dataset import to_model_range, training_pictures
from diffusers import AutoencoderKL
from stage_loop import pick_device, step_generator
from torch.nn import functional
from tqdm import tqdm
from train_vae import cached_latents

NUM_DECODED = 12_000
# Up to a third of a standard deviation of the latents: about the mistakes that a denoiser makes.
MAX_LATENT_NOISE = 0.35


class TrainingPictures:
    """The training toys, half of a batch as drawn and half as decoded."""

    def __init__(self, work_dir: Path) -> None:
        """Draw and decode the pictures, or read those that were kept in the work folder."""
        self.drawn = training_pictures(work_dir)
        self.decoded = _decoded_pictures(work_dir)

    def draw(self, step: int, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw the batch of a step.

        Returns:
            Pictures ``(batch_size, 3, 64, 64)`` in [-1, 1], and the positions of their toys ``(batch_size,)``.
        """
        generator = step_generator(step)
        from_drawn = torch.randint(len(self.drawn), (batch_size // 2,), generator=generator)
        from_decoded = torch.randint(len(self.decoded), (batch_size // 2,), generator=generator)
        pictures = to_model_range(torch.cat([self.drawn[from_drawn], self.decoded[from_decoded]]))
        return _augment(pictures, generator), torch.cat([from_drawn, from_decoded])


def _augment(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Blur a third of the pictures, and change brightness and grain of all a little."""
    num_blurred = len(pictures) // 3
    picked = torch.randperm(len(pictures), generator=generator)[:num_blurred]
    pictures[picked] = functional.avg_pool2d(pictures[picked], 3, stride=1, padding=1, count_include_pad=False)
    gain = 1 + 0.05 * torch.randn(len(pictures), 1, 1, 1, generator=generator)
    grain = 0.03 * torch.randn(pictures.shape, generator=generator)
    return (pictures * gain + grain).clamp(-1, 1)


@torch.no_grad()
def _decoded_pictures(work_dir: Path) -> torch.Tensor:
    """The first training pictures as the autoencoder gives them back from disturbed latents, uint8.

    Generated pictures carry the decoder's smear; a judge that has only seen clean drawings would misread them.
    """
    path = work_dir / "decoded.pt"
    if not path.exists():
        device, generator = pick_device(), torch.Generator().manual_seed(0)
        vae = AutoencoderKL.from_pretrained(work_dir / "vae").to(device)
        pictures = []
        for latents in tqdm(cached_latents(vae, work_dir)[:NUM_DECODED].split(100), desc="decoding toys"):
            strength = MAX_LATENT_NOISE * torch.rand(len(latents), 1, 1, 1, generator=generator)
            disturbed = latents + strength * torch.randn(latents.shape, generator=generator)
            decoded = vae.decode(disturbed.to(device) / vae.config.scaling_factor).sample
            pictures.append(((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().cpu())
        torch.save(torch.cat(pictures), path)
    return torch.load(path, weights_only=True)
