"""Stage "denoiser": the UNet, trained from nothing on cached latents, with the text encoder frozen."""

import copy
import random
from pathlib import Path
from typing import Any

import torch
from architecture import assemble_pipeline, build_scheduler, build_text_encoder, build_unet, build_vae
from captions import training_caption
from dataset import NUM_TRAINING_TOYS, sample_toys
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import AttnProcessor
from stage_loop import load_as_float32, pick_device, step_generator, train
from train_text_encoder import SHORT_LENGTH, load_text_encoder, load_tokenizer
from train_vae import cached_latents

BATCH_SIZE = 32
LEARNING_RATE = 1e-3
# No caption is longer than 30 tokens. Most steps leave out most of the padding, which costs a third of a step; every
# fourth keeps all of it, as pipelines do.
FULL_LENGTH_EVERY = 4


def train_denoiser(work_dir: Path, pipeline_dir: Path, num_steps: int) -> None:
    """Train the UNet; export the whole pipeline, in half precision, now and then and at the end."""
    torch.manual_seed(0)
    device = pick_device()
    vae = AutoencoderKL.from_pretrained(work_dir / "vae").eval().requires_grad_(False).to(device)
    latents = cached_latents(vae, work_dir)
    toys = sample_toys("train", NUM_TRAINING_TOYS)
    tokenizer, scheduler = load_tokenizer(work_dir), build_scheduler()
    text_encoder = load_text_encoder(work_dir).to(device)
    unet: Any = build_unet(text_encoder).to(device)
    if device.type == "cpu":
        # Plain matrix products are faster here than the CPU kernels of fused attention. The choice is not saved.
        text_encoder.set_attn_implementation("eager")
        unet.set_attn_processor(AttnProcessor())

    def compute_loss(step: int) -> torch.Tensor:
        generator, rng = step_generator(step), random.Random(step)
        picked = torch.randint(len(latents), (BATCH_SIZE,), generator=generator)
        captions = [training_caption(toys[index], rng).text for index in picked.tolist()]
        length = tokenizer.model_max_length if step % FULL_LENGTH_EVERY == 0 else SHORT_LENGTH
        encoded = tokenizer(captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        clean = latents[picked].to(device)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        timesteps = torch.randint(scheduler.config.num_train_timesteps, (BATCH_SIZE,), generator=generator).to(device)
        noisy_latents = scheduler.add_noise(clean, noise, timesteps)
        with torch.no_grad():
            encoder_hidden_states = text_encoder(encoded.input_ids.to(device))[0]
        model_pred = unet(noisy_latents, timesteps, encoder_hidden_states).sample
        velocity = scheduler.get_velocity(clean, noise, timesteps)
        return (model_pred.float() - velocity).square().mean()

    def export(average: Any) -> None:
        # Copies: halving the average itself would coarsen what training goes on from. Autoencoder and text encoder are
        # built anew, because a loaded one writes the path it came from into its configuration.
        parts = build_vae(vae.config.scaling_factor), build_text_encoder(tokenizer), copy.deepcopy(average)
        parts[0].load_state_dict(vae.state_dict())
        parts[1].load_state_dict(text_encoder.state_dict())
        assemble_pipeline(*(part.half() for part in parts), tokenizer).save_pretrained(pipeline_dir)
        load_as_float32(pipeline_dir / "text_encoder" / "config.json")

    train(
        unet,
        compute_loss,
        num_steps=num_steps,
        learning_rate=LEARNING_RATE,
        work_path=work_dir / "denoiser.pt",
        on_save=export,
    )
