"""Tiny pipelines of the families that can be trained on, and each family's published objective in a straight line.

The objectives are written from the papers, on the pipelines' own modules, and use nothing of the package.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from tiny.every_family import FAMILY
from tiny.families import Family
from tiny.text import seeded
from torch import Tensor

Objective = Callable[[Any, str, Tensor, Tensor, Tensor, Tensor], Tensor]
"""Pipeline, prompt, latents, noise ``(1, channels, height, width)``, timestep ``(1,)``, geometry ``(1, 6)`` -> MSE."""


@dataclass(frozen=True)
class TrainingFamily:
    """A family as the trainer meets it.

    Attributes:
        name: Of the case.
        family: Its tiny pipeline, and how it is run.
        trained: Text encoders that are trained by default.
        objective: What its authors minimise.
        build: Returns a fresh pipeline, each time with the same weights.
    """

    name: str
    family: Family
    trained: tuple[str, ...]
    objective: Objective
    build: Callable[[], Any]


# Noise schedules


def signal_rates(pipe: Any) -> Tensor:
    """Return the cumulative signal rates of a scaled-linear schedule (arXiv:2006.11239, section 2).

    With a zero terminal signal-to-noise ratio its square roots are shifted and scaled (arXiv:2305.08891, algorithm 1).
    """
    config = pipe.scheduler.config
    roots = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, config.num_train_timesteps)
    rates = torch.cumprod(1 - roots**2, 0)
    if config.get("rescale_betas_zero_snr"):
        root = rates.sqrt()
        rates = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return rates


def noisy_and_target(pipe: Any, latents: Tensor, noise: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """Return z_t, and the noise or the velocity (arXiv:2202.00512)."""
    rate = signal_rates(pipe)[timestep.long()].to(latents)
    signal, sigma = rate.sqrt(), (1 - rate).sqrt()
    velocity = signal * noise - sigma * latents
    is_velocity = pipe.scheduler.config.prediction_type == "v_prediction"
    return signal * latents + sigma * noise, velocity if is_velocity else noise


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    return ((prediction - target) ** 2).mean()


def token_ids(tokenizer: Any, prompt: str, length: int) -> Any:
    return tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt")


def stable_diffusion(pipe: Any, prompt: str, latents: Tensor, noise: Tensor, time: Tensor, _: Tensor) -> Tensor:
    context = pipe.text_encoder(token_ids(pipe.tokenizer, prompt, 77).input_ids).last_hidden_state
    noisy, target = noisy_and_target(pipe, latents, noise, time)
    return mse(pipe.unet(noisy, time, context).sample, target)


def two_clips(pipe: Any, prompt: str) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return both CLIPs' last but one hidden states side by side, and the pooled vector of each."""
    first = pipe.text_encoder(token_ids(pipe.tokenizer, prompt, 77).input_ids, output_hidden_states=True)
    second = pipe.text_encoder_2(token_ids(pipe.tokenizer_2, prompt, 77).input_ids, output_hidden_states=True)
    context = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
    return context, getattr(first, "text_embeds", None), second.text_embeds


def stable_diffusion_xl(pipe: Any, prompt: str, latents: Tensor, noise: Tensor, time: Tensor, sizes: Tensor) -> Tensor:
    """arXiv:2307.01952, section 2.2: sizes of the picture, place of the crop and the pooled vector are given too."""
    context, _, pooled = two_clips(pipe, prompt)
    noisy, target = noisy_and_target(pipe, latents, noise, time)
    added = {"text_embeds": pooled, "time_ids": sizes}
    return mse(pipe.unet(noisy, time, context, added_cond_kwargs=added).sample, target)


def pixart_sigma(pipe: Any, prompt: str, latents: Tensor, noise: Tensor, time: Tensor, _: Tensor) -> Tensor:
    """The half of the prediction that is no variance (arXiv:2403.04692; the objective is that of arXiv:2310.00426)."""
    ids = token_ids(pipe.tokenizer, prompt.lower(), 300)
    context = pipe.text_encoder(ids.input_ids, attention_mask=ids.attention_mask).last_hidden_state
    noisy, target = noisy_and_target(pipe, latents, noise, time)
    predicted = pipe.transformer(
        noisy,
        encoder_hidden_states=context,
        encoder_attention_mask=ids.attention_mask,
        timestep=time,
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
    ).sample
    return mse(predicted.chunk(2, dim=1)[0], target)


# Flow matching


def stable_diffusion_3(pipe: Any, prompt: str, latents: Tensor, noise: Tensor, time: Tensor, _: Tensor) -> Tensor:
    """arXiv:2403.03206, equations 1 to 13: z_t = (1 - t) z + t e, and the velocity is e - z; figure 2: the text."""
    clips, first, second = two_clips(pipe, prompt)
    width = pipe.transformer.config.joint_attention_dim
    wide = torch.nn.functional.pad(clips, (0, width - clips.shape[-1]))
    if pipe.text_encoder_3 is None:
        context = torch.cat([wide, torch.zeros(1, 256, width).to(wide)], dim=1)
    else:
        ids = token_ids(pipe.tokenizer_3, prompt, 256).input_ids
        context = torch.cat([wide, pipe.text_encoder_3(ids).last_hidden_state], dim=1)
    noisy = (1 - time / 1000) * latents + time / 1000 * noise
    predicted = pipe.transformer(
        hidden_states=noisy,
        timestep=time,
        encoder_hidden_states=context,
        pooled_projections=torch.cat([first, second], dim=-1),
    ).sample
    return mse(predicted, noise - latents)


def flux(pipe: Any, prompt: str, latents: Tensor, noise: Tensor, time: Tensor, _: Tensor) -> Tensor:
    """Flow matching on squares of 2 by 2 latents, each at its row and column; a distilled guidance of 1."""
    pooled = pipe.text_encoder(token_ids(pipe.tokenizer, prompt, 77).input_ids).pooler_output
    context = pipe.text_encoder_2(token_ids(pipe.tokenizer_2, prompt, 512).input_ids).last_hidden_state
    noisy = (1 - time / 1000) * latents + time / 1000 * noise
    height, width = latents.shape[-2:]
    places = [(row, column) for row in range(0, height, 2) for column in range(0, width, 2)]

    def tokens(values: Tensor) -> Tensor:
        return torch.stack([values[0, :, r : r + 2, c : c + 2].flatten() for r, c in places])[None]

    predicted = pipe.transformer(
        hidden_states=tokens(noisy),
        timestep=time / 1000,
        guidance=torch.ones(1) if pipe.transformer.config.guidance_embeds else None,
        pooled_projections=pooled,
        encoder_hidden_states=context,
        txt_ids=torch.zeros(512, 3).to(latents),
        img_ids=torch.tensor([(0, row // 2, column // 2) for row, column in places]).to(latents),
    ).sample
    return mse(predicted, tokens(noise - latents))


def sana(pipe: Any, prompt: str, latents: Tensor, noise: Tensor, time: Tensor, _: Tensor) -> Tensor:
    """Flow matching with the instruction of arXiv:2410.10629, section 2.3, before the prompt."""
    instruction = "\n".join(inspect.signature(type(pipe).__call__).parameters["complex_human_instruction"].default)
    ids = pipe.tokenizer(instruction + prompt.lower(), return_tensors="pt")
    num_before = len(pipe.tokenizer(instruction.rstrip()).input_ids)  # the space belongs to the prompt's first word
    hidden = pipe.text_encoder(**ids).last_hidden_state
    context = torch.cat([hidden[:, :1], hidden[:, num_before:]], dim=1)
    predicted = pipe.transformer(
        (1 - time / 1000) * latents + time / 1000 * noise,
        encoder_hidden_states=context,
        encoder_attention_mask=torch.ones(1, context.shape[1]),
        timestep=time * pipe.transformer.config.timestep_scale,
    ).sample
    return mse(predicted, noise - latents)


# Cases


def _with(name: str, change: Callable[[Any], None]) -> Callable[[], Any]:
    def build() -> Any:
        pipe = FAMILY[name].build()
        change(pipe)
        return pipe

    return build


def _velocity(pipe: Any) -> None:
    """Stable Diffusion 2 at 768 px, with the schedule mended as arXiv:2305.08891 proposes."""
    options = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **options)


def _without_t5(pipe: Any) -> None:
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)


def _shifted(pipe: Any) -> None:
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)


def _schnell(pipe: Any) -> None:
    config = {**pipe.transformer.config, "guidance_embeds": False}
    pipe.register_modules(transformer=seeded(lambda: FluxTransformer2DModel.from_config(config)))


def _dev(pipe: Any) -> None:
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)


def _case(
    name: str,
    family: str,
    objective: Objective,
    *trained: str,
    change: Callable[[Any], None] | None = None,
) -> TrainingFamily:
    build = FAMILY[family].build if change is None else _with(family, change)
    return TrainingFamily(name, FAMILY[family], trained or ("text_encoder",), objective, build)


_CLIPS = ("text_encoder", "text_encoder_2")

TRAINING_FAMILIES = [
    _case("stable_diffusion", "stable_diffusion", stable_diffusion),
    _case("stable_diffusion_velocity", "stable_diffusion", stable_diffusion, change=_velocity),
    _case("stable_diffusion_xl", "stable_diffusion_xl", stable_diffusion_xl, *_CLIPS),
    _case("stable_diffusion_3", "stable_diffusion_3", stable_diffusion_3, *_CLIPS, change=_shifted),
    _case("stable_diffusion_3_without_t5", "stable_diffusion_3", stable_diffusion_3, *_CLIPS, change=_without_t5),
    _case("flux_dev", "flux", flux, change=_dev),
    _case("flux_schnell", "flux", flux, change=_schnell),
    _case("pixart_sigma", "pixart_sigma", pixart_sigma),
    _case("sana", "sana", sana),
]
TRAINING_FAMILY = {case.name: case for case in TRAINING_FAMILIES}
