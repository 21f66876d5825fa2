"""Tiny pipelines of the families that can be trained on, and each family's published objective in a straight line.

The objectives are written from the papers, on the pipelines' own modules, and use nothing of the package.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    HiDreamImageTransformer2DModel,
    Ideogram4Pipeline,
    Ideogram4Transformer2DModel,
    QwenImage21Pipeline,
)
from tiny.every_family import FAMILY
from tiny.families import Family, quiet
from tiny.language_models import mistral3_encoder, qwen3_encoder, qwen3_vl_encoder
from tiny.language_tokenizers import qwen_tokenizer
from tiny.parts import ONE_STEP, denoiser
from tiny.text import seeded
from torch import Tensor
from transformers import Qwen3ForCausalLM, Qwen3VLModel

Objective = Callable[[Any, str, Tensor, Tensor, Tensor, Tensor], Tensor]
"""Pipeline, prompt, latents, noise ``(1, channels, height, width)``, timestep ``(1,)``, geometry ``(1, 6)`` -> MSE."""

Decoding = Callable[[Any, Tensor], Tensor]
"""Pipeline, latents in the denoiser's scale -> what the pipeline gives to its decoder."""


def scaled(pipe: Any, latents: Tensor) -> Tensor:
    config = pipe.vae.config
    return latents / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)


@dataclass(frozen=True)
class TrainingFamily:
    """A family as the trainer meets it.

    Attributes:
        name: Of the case.
        family: Its tiny pipeline, and how it is run.
        trained: Text encoders that are trained by default.
        objective: What its authors minimise.
        build: Returns a fresh pipeline, each time with the same weights.
        decoding: What its pipeline does to latents before it decodes them.
        exact_everywhere: Whether a concept is its description to the last bit also at the beginning of a prompt and
            before a mark, not only between spaces.
    """

    name: str
    family: Family
    trained: tuple[str, ...]
    objective: Objective
    build: Callable[[], Any]
    decoding: Decoding = scaled
    exact_everywhere: bool = True

    @property
    def is_flow(self) -> bool:
        """Whether timesteps are real numbers."""
        schedules = (stable_diffusion, stable_diffusion_xl, pixart_sigma, pixart_alpha, kolors, hunyuan_dit)
        return self.objective not in schedules


def side_of(pipe: Any) -> int:
    """Return the side of training pictures for a tiny pipeline, in pixels."""
    return 32 if isinstance(pipe, QwenImage21Pipeline) else 16  # its autoencoder makes a latent of 16 x 16 pixels


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


def hunyuan_dit(pipe: Any, prompt: str, latents: Tensor, noise: Tensor, time: Tensor, sizes: Tensor) -> Tensor:
    """arXiv:2405.08748, section 2: two text encoders, size and crop of the picture; the half that is no variance."""
    first, second = token_ids(pipe.tokenizer, prompt, 77), token_ids(pipe.tokenizer_2, prompt, 256)
    noisy, target = noisy_and_target(pipe, latents, noise, time)
    side = latents.shape[-1] // 2
    # Positions of a picture of 512 px (32 squares of latents), spread over as many squares as there are.
    positions = torch.arange(side).float() * 32 / side
    rates = 10000.0 ** -(torch.arange(0, 4, 2).float() / 4)  # of a head's 8 numbers, 4 tell the column and 4 the row
    rows, columns = (place.flatten()[:, None] * rates for place in torch.meshgrid(positions, positions, indexing="ij"))
    angles = torch.cat([columns, rows], dim=1).repeat_interleave(2, dim=1)
    predicted = pipe.transformer(
        noisy,
        time.float(),
        encoder_hidden_states=pipe.text_encoder(first.input_ids, first.attention_mask).last_hidden_state,
        text_embedding_mask=first.attention_mask,
        encoder_hidden_states_t5=pipe.text_encoder_2(second.input_ids, second.attention_mask).last_hidden_state,
        text_embedding_mask_t5=second.attention_mask,
        image_meta_size=torch.cat([sizes[:, :2], sizes[:, 4:], sizes[:, 2:4]], dim=1),
        style=torch.tensor([0]),
        image_rotary_emb=(angles.cos(), angles.sin()),
    ).sample
    return mse(predicted.chunk(2, dim=1)[0], target)


def kolors(pipe: Any, prompt: str, latents: Tensor, noise: Tensor, time: Tensor, sizes: Tensor) -> Tensor:
    """The technical report of Kolors, section 2: ChatGLM's states, the last of which is the pooled vector too."""
    ids = pipe.tokenizer(prompt, padding="max_length", max_length=256, truncation=True, return_tensors="pt")
    hidden = pipe.text_encoder(**ids, output_hidden_states=True).hidden_states
    noisy, target = noisy_and_target(pipe, latents, noise, time)
    added = {"text_embeds": hidden[-1][-1], "time_ids": sizes}  # tokens come first, then prompts
    return mse(pipe.unet(noisy, time, hidden[-2].transpose(0, 1), added_cond_kwargs=added).sample, target)


def pixart_alpha(pipe: Any, prompt: str, latents: Tensor, noise: Tensor, time: Tensor, sizes: Tensor) -> Tensor:
    """arXiv:2310.00426, sections 2.3 and 2.5: at 1024 px, height, width and their ratio are given too."""
    height, width = sizes[:, 4:5], sizes[:, 5:6]
    told = pipe.transformer.use_additional_conditions
    given = {"resolution": sizes[:, 4:6], "aspect_ratio": height / width} if told else None
    return pixart_sigma(pipe, prompt, latents, noise, time, sizes, 120, given)


def pixart_sigma(
    pipe: Any,
    prompt: str,
    latents: Tensor,
    noise: Tensor,
    time: Tensor,
    _: Tensor,
    num_tokens: int = 300,
    sizes: dict[str, Tensor] | None = None,
) -> Tensor:
    """The half of the prediction that is no variance (arXiv:2403.04692; the objective is that of arXiv:2310.00426)."""
    ids = token_ids(pipe.tokenizer, prompt.lower(), num_tokens)
    context = pipe.text_encoder(ids.input_ids, attention_mask=ids.attention_mask).last_hidden_state
    noisy, target = noisy_and_target(pipe, latents, noise, time)
    predicted = pipe.transformer(
        noisy,
        encoder_hidden_states=context,
        encoder_attention_mask=ids.attention_mask,
        timestep=time,
        added_cond_kwargs=sizes or {"resolution": None, "aspect_ratio": None},
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


def hidream(pipe: Any, prompt: str, latents: Tensor, noise: Tensor, time: Tensor, _: Tensor) -> Tensor:
    """arXiv:2505.22705: CLIPs for a pooled vector; T5 and each layer of Llama join the image tokens."""
    read = [
        token_ids(tokenizer, prompt, 128)
        for tokenizer in (pipe.tokenizer, pipe.tokenizer_2, pipe.tokenizer_3, pipe.tokenizer_4)
    ]
    pooled = [pipe.text_encoder(read[0].input_ids).text_embeds, pipe.text_encoder_2(read[1].input_ids).text_embeds]
    t5 = pipe.text_encoder_3(read[2].input_ids, attention_mask=read[2].attention_mask).last_hidden_state
    llama = pipe.text_encoder_4(**read[3], output_hidden_states=True).hidden_states[1:]
    predicted = pipe.transformer(
        hidden_states=straight_line(latents, noise, time),
        timesteps=time,
        encoder_hidden_states_t5=t5,
        encoder_hidden_states_llama3=torch.stack(llama),
        pooled_embeds=torch.cat(pooled, dim=-1),
    ).sample
    return mse(predicted, latents - noise)


# Flow matching behind a language model


def straight_line(latents: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    return (1 - time / 1000) * latents + time / 1000 * noise


def squares(values: Tensor) -> Tensor:
    """Return the 2 by 2 squares of latents line by line, ``(1, squares, 4 * channels)``."""
    height, width = values.shape[-2:]
    places = [(row, column) for row in range(0, height, 2) for column in range(0, width, 2)]
    return torch.stack([values[0, :, r : r + 2, c : c + 2].flatten() for r, c in places])[None]


def z_image(pipe: Any, prompt: str, latents: Tensor, noise: Tensor, time: Tensor, _: Tensor) -> Tensor:
    """arXiv:2511.22699: text and picture in one stream; time runs from noise (0) to picture (1), as the velocity."""
    text = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    hidden = pipe.text_encoder(**pipe.tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
    frame = straight_line(latents, noise, time)[0][:, None]
    (predicted,) = pipe.transformer([frame], 1 - time / 1000, [hidden[-2][0]]).sample
    return mse(predicted[:, 0], (latents - noise)[0])


def normalised_by_channel(pipe: Any, latents: Tensor) -> Tensor:
    mean, std = (torch.tensor(pipe.vae.config[name]).view(1, -1, 1, 1) for name in ("latents_mean", "latents_std"))
    return (latents * std + mean)[:, :, None]


def qwen_image(pipe: Any, prompt: str, latents: Tensor, noise: Tensor, time: Tensor, _: Tensor) -> Tensor:
    """arXiv:2508.02324, section 2.2 and figure 7: what the system is told is read and not passed on."""
    before = (
        "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
        "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n"
    )
    ids = pipe.tokenizer(f"{before}{prompt}<|im_end|>\n<|im_start|>assistant\n", return_tensors="pt")
    hidden = pipe.text_encoder(**ids, output_hidden_states=True).hidden_states[-1]
    height, width = latents.shape[-2:]
    predicted = pipe.transformer(
        hidden_states=squares(straight_line(latents, noise, time)),
        timestep=time / 1000,
        encoder_hidden_states=hidden[:, len(pipe.tokenizer(before).input_ids) :],
        img_shapes=[[(1, height // 2, width // 2)]],
    ).sample
    return mse(predicted, squares(noise - latents))


def qwen_image21(pipe: Any, prompt: str, latents: Tensor, noise: Tensor, time: Tensor, _: Tensor) -> Tensor:
    """The card: what comes out of the last layer, before the last norm; each latent is a token."""
    system = "<|im_start|>system\nComprehend and analyze the provided prompt.<|im_end|>\n"
    tokenizer, seen = pipe.processor.tokenizer, []
    ids = tokenizer(f"{system}<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n", return_tensors="pt")
    last = pipe.text_encoder.model.language_model.layers[-1]
    hook = last.register_forward_hook(lambda module, inputs, output: seen.append(output))
    pipe.text_encoder(**ids)
    hook.remove()
    context = seen[0][:, len(tokenizer(system).input_ids) :]
    height, width = latents.shape[-2:]
    is_picture = torch.tensor([[False] * context.shape[1] + [True] * (height * width // 4)])
    sequence = pipe.transformer(
        hidden_states=straight_line(latents, noise, time).flatten(2).mT,
        timestep=time / 1000,
        encoder_hidden_states=context,
        img_shapes=[[(1, height, width)]],
        img_mask=is_picture,
    ).sample
    return mse(sequence[:, -height * width :], (noise - latents).flatten(2).mT)


def normalised_by_square(pipe: Any, latents: Tensor) -> Tensor:
    """Every one of the four places of a square has a mean and a deviation of its own."""
    std = (pipe.vae.bn.running_var + pipe.vae.config.batch_norm_eps).sqrt()
    made = torch.empty_like(latents)
    for channel in range(latents.shape[1]):
        for place, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
            index = 4 * channel + place
            values = latents[:, channel, row::2, column::2]
            made[:, channel, row::2, column::2] = values * std[index] + pipe.vae.bn.running_mean[index]
    return made


def flux2(pipe: Any, prompt: str, latents: Tensor, noise: Tensor, time: Tensor, _: Tensor) -> Tensor:
    """The published code: layers 10, 20 and 30 of Mistral Small 3 side by side, and 512 tokens of text."""
    system = pipe.system_message
    text = f"<s>[SYSTEM_PROMPT]{system}[/SYSTEM_PROMPT][INST]{prompt}[/INST]"
    tokenizer = pipe.tokenizer.tokenizer
    ids = tokenizer(text, padding="max_length", max_length=512, return_tensors="pt", add_special_tokens=False)
    return _flux2(pipe, ids, (10, 20, 30), torch.ones(1), (latents, noise, time))


def flux2_klein(pipe: Any, prompt: str, latents: Tensor, noise: Tensor, time: Tensor, _: Tensor) -> Tensor:
    """The published code: layers 9, 18 and 27 of Qwen3, which is told that it has thought already."""
    text = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    ids = pipe.tokenizer(text, padding="max_length", max_length=512, return_tensors="pt")
    return _flux2(pipe, ids, (9, 18, 27), None, (latents, noise, time))


def _flux2(
    pipe: Any, ids: Any, layers: tuple[int, ...], guidance: Tensor | None, drawn: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    latents, noise, time = drawn
    hidden = pipe.text_encoder(**ids, output_hidden_states=True).hidden_states
    height, width = latents.shape[-2:]
    predicted = pipe.transformer(
        hidden_states=squares(straight_line(latents, noise, time)),
        timestep=time / 1000,
        guidance=guidance,
        encoder_hidden_states=torch.cat([hidden[layer] for layer in layers], dim=-1),
        txt_ids=torch.tensor([[0, 0, 0, place] for place in range(512)]),
        img_ids=torch.tensor([[0, row, column, 0] for row in range(height // 2) for column in range(width // 2)]),
    ).sample
    return mse(predicted, squares(noise - latents))


def chroma(pipe: Any, prompt: str, latents: Tensor, noise: Tensor, time: Tensor, _: Tensor) -> Tensor:
    """The card: Flux without CLIP; of the padding, one token is attended to."""
    ids = token_ids(pipe.tokenizer, prompt, 512)
    context = pipe.text_encoder(ids.input_ids, attention_mask=ids.attention_mask).last_hidden_state
    height, width = latents.shape[-2:]
    num_squares = height * width // 4
    seen = torch.ones(1, 512 + num_squares)
    seen[0, int(ids.attention_mask.sum()) + 1 : 512] = 0
    predicted = pipe.transformer(
        hidden_states=squares(straight_line(latents, noise, time)),
        timestep=time / 1000,
        encoder_hidden_states=context,
        txt_ids=torch.zeros(512, 3),
        img_ids=torch.tensor([(0.0, row, column) for row in range(height // 2) for column in range(width // 2)]),
        attention_mask=seen,
    ).sample
    return mse(predicted, squares(noise - latents))


def aura_flow(pipe: Any, prompt: str, latents: Tensor, noise: Tensor, time: Tensor, _: Tensor) -> Tensor:
    """The card: flow matching on UMT5, whose padding is zero."""
    ids = token_ids(pipe.tokenizer, prompt, 256)
    context = pipe.text_encoder(ids.input_ids, ids.attention_mask).last_hidden_state * ids.attention_mask[..., None]
    noisy = straight_line(latents, noise, time)
    return mse(pipe.transformer(noisy, context, time / 1000).sample, noise - latents)


def lumina2(pipe: Any, prompt: str, latents: Tensor, noise: Tensor, time: Tensor, _: Tensor) -> Tensor:
    """arXiv:2503.21758, section 3: a system prompt before the prompt; time runs from noise to picture."""
    text = f"{pipe.system_prompt} <Prompt Start> {prompt}"
    ids = token_ids(pipe.tokenizer, text, 256)
    hidden = pipe.text_encoder(**ids, output_hidden_states=True).hidden_states[-2]
    predicted = pipe.transformer(
        hidden_states=straight_line(latents, noise, time),
        timestep=1 - time / 1000,
        encoder_hidden_states=hidden,
        encoder_attention_mask=ids.attention_mask,
    ).sample
    return mse(predicted, latents - noise)


def krea2(pipe: Any, prompt: str, latents: Tensor, noise: Tensor, time: Tensor, _: Tensor) -> Tensor:
    """The published code: padding stands before the end of the template and counts for no position."""
    before = (
        "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
        "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n"
    )
    num_before = len(pipe.tokenizer(before).input_ids)
    ids = pipe.tokenizer(f"{before}{prompt}<|im_end|>\n<|im_start|>assistant\n", return_tensors="pt")
    hidden = pipe.text_encoder(**ids, output_hidden_states=True).hidden_states
    layers = torch.stack([hidden[layer] for layer in pipe.text_encoder_select_layers], dim=2)[:, num_before:]
    # What is not attended to may as well not be there: no padding here.
    rows, columns = latents.shape[-2] // 2, latents.shape[-1] // 2
    text = [(0.0, 0.0, 0.0)] * layers.shape[1]
    places = torch.tensor([*text, *((0.0, row, column) for row in range(rows) for column in range(columns))])
    predicted = pipe.transformer(
        hidden_states=squares(straight_line(latents, noise, time)),
        encoder_hidden_states=layers,
        timestep=time / 1000,
        position_ids=places,
        encoder_attention_mask=torch.ones(1, layers.shape[1], dtype=torch.bool),
    ).sample
    return mse(predicted, squares(noise - latents))


def ernie_image(pipe: Any, prompt: str, latents: Tensor, noise: Tensor, time: Tensor, _: Tensor) -> Tensor:
    """The published code: the last but one hidden state of each token; each square of latents is a token."""
    hidden = pipe.text_encoder(**pipe.tokenizer(prompt, return_tensors="pt"), output_hidden_states=True).hidden_states
    rows = latents.shape[-2] // 2
    places = squares(straight_line(latents, noise, time)).mT.unflatten(2, (rows, -1))
    predicted = pipe.transformer(
        hidden_states=places, timestep=time, text_bth=hidden[-2], text_lens=torch.tensor([hidden[-2].shape[1]])
    ).sample
    return mse(predicted.flatten(2).mT, squares(noise - latents))


def cogview4(pipe: Any, prompt: str, latents: Tensor, noise: Tensor, time: Tensor, sizes: Tensor) -> Tensor:
    """The published code: GLM's last but one states, padded to 16; the picture's size, the crop and its size."""
    ids = pipe.tokenizer(prompt).input_ids
    padded = [pipe.tokenizer.pad_token_id] * (-len(ids) % 16) + ids
    hidden = pipe.text_encoder(torch.tensor([padded]), output_hidden_states=True).hidden_states[-2]
    predicted = pipe.transformer(
        hidden_states=straight_line(latents, noise, time),
        encoder_hidden_states=hidden,
        timestep=time,
        original_size=sizes[:, :2],
        target_size=sizes[:, 4:],
        crop_coords=sizes[:, 2:4],
    ).sample
    return mse(predicted, noise - latents)


def ideogram4(pipe: Any, prompt: str, latents: Tensor, noise: Tensor, time: Tensor, _: Tensor) -> Tensor:
    """The published code: thirteen layers, interleaved number by number; places of the picture from 65536 on."""
    text = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    layers, seen = (0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33, 35), {}
    hooks = [
        pipe.text_encoder.language_model.layers[layer].register_forward_hook(
            lambda module, inputs, output, layer=layer: seen.update({layer: output})
        )
        for layer in layers
    ]
    pipe.text_encoder(**pipe.tokenizer(text, return_tensors="pt"))
    for hook in hooks:
        hook.remove()
    context = torch.stack([seen[layer] for layer in layers], dim=-1).flatten(2)
    num_text, (rows, columns) = context.shape[1], (side // 2 for side in latents.shape[-2:])
    places = [(place, place, place) for place in range(num_text)]
    places += [(65536, 65536 + row, 65536 + column) for row in range(rows) for column in range(columns)]

    def tokens(values: Tensor) -> Tensor:
        return torch.stack(
            [
                values[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].permute(1, 2, 0).flatten()
                for row in range(rows)
                for column in range(columns)
            ]
        )[None]

    noisy = tokens(straight_line(latents, noise, time))
    predicted = pipe.transformer(
        hidden_states=torch.nn.functional.pad(noisy, (0, 0, num_text, 0)),
        timestep=1 - time / 1000,
        encoder_hidden_states=torch.nn.functional.pad(context, (0, 0, 0, rows * columns)),
        position_ids=torch.tensor([places]),
        segment_ids=torch.ones(1, len(places), dtype=torch.long),
        indicator=torch.tensor([[3] * num_text + [2] * rows * columns]),
    ).sample
    return mse(predicted[:, num_text:], tokens(latents - noise))


def channels_last_by_square(pipe: Any, latents: Tensor) -> Tensor:
    std = (pipe.vae.bn.running_var + pipe.vae.config.batch_norm_eps).sqrt()
    made, num_channels = torch.empty_like(latents), latents.shape[1]
    for place, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        kept = slice(place * num_channels, (place + 1) * num_channels)
        values = latents[:, :, row::2, column::2]
        mean = pipe.vae.bn.running_mean[kept]
        made[:, :, row::2, column::2] = values * std[kept].view(1, -1, 1, 1) + mean.view(1, -1, 1, 1)
    return made


def normalised_by_square_1e_5(pipe: Any, latents: Tensor) -> Tensor:
    std = (pipe.vae.bn.running_var + 1e-5).sqrt()
    shrunk = (pipe.vae.bn.running_var + pipe.vae.config.batch_norm_eps).sqrt()
    factor = torch.nn.functional.pixel_shuffle((std / shrunk).view(1, -1, 1, 1), 2)
    return normalised_by_square(pipe, latents * factor.repeat(1, 1, *(size // 2 for size in latents.shape[-2:])))


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


def _with_statistics(pipe: Any) -> None:
    """Give latents the means and deviations of a trained autoencoder, which tell one channel from another."""
    config = pipe.vae.config
    values = torch.linspace(0.5, 2.0, config.z_dim).tolist()
    pipe.vae.register_to_config(latents_mean=values, latents_std=values[::-1])
    _calm(pipe.text_encoder)


def _calm(model: torch.nn.Module, factor: float = 0.3) -> None:
    """Shrink the layers of a model: large random ones make chaos of what a step changes."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2 and len(weight) < 100:
                weight.mul_(factor)


def _with_batch_norm(pipe: Any) -> None:
    """Give latents the means and deviations of a trained autoencoder."""
    norm = pipe.vae.bn
    norm.running_mean.copy_(torch.linspace(-1.0, 1.0, len(norm.running_mean)))
    norm.running_var.copy_(torch.linspace(0.5, 2.0, len(norm.running_var)))


def _deep(pipe: Any) -> None:
    """As many layers as Flux.2 chooses from, and the statistics of a trained autoencoder."""
    is_klein = type(pipe).__name__ == "Flux2KleinPipeline"
    encoder = qwen3_encoder(16, 27, Qwen3ForCausalLM) if is_klein else mistral3_encoder(16, layers=30)
    _calm(encoder)
    config = {**pipe.transformer.config, "joint_attention_dim": 3 * 16}
    pipe.register_modules(
        text_encoder=encoder, transformer=denoiser(lambda: Flux2Transformer2DModel.from_config(config))
    )
    _with_batch_norm(pipe)


def _long_clips_and_experts(pipe: Any) -> None:
    """CLIPs that read 128 tokens, and several experts that take turns."""
    for name in ("text_encoder", "text_encoder_2"):
        clip = getattr(pipe, name)
        config = type(clip.config).from_dict({**clip.config.to_dict(), "max_position_embeddings": 248})
        pipe.register_modules(**{name: seeded(lambda clip=clip, config=config: type(clip)(config))})
        getattr(pipe, name.replace("text_encoder", "tokenizer")).model_max_length = 248
    sizes = {"num_routed_experts": 4, "num_activated_experts": 2, "force_inference_output": False}
    config = {**pipe.transformer.config, **sizes}
    pipe.register_modules(transformer=denoiser(lambda: HiDreamImageTransformer2DModel.from_config(config)))


def _scaled_linear(pipe: Any) -> None:
    options = {"beta_start": 0.00085, "beta_end": 0.014, "beta_schedule": "scaled_linear"}
    pipe.scheduler = EulerDiscreteScheduler(**options)


def build_ideogram4() -> Ideogram4Pipeline:
    """As many layers as Ideogram 4 chooses from, and an autoencoder with two channels, which tell their order."""
    encoder = qwen3_vl_encoder(16, 36, Qwen3VLModel)
    _calm(encoder)
    sizes = {"in_channels": 8, "num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2, "adaln_dim": 16}
    options = {**sizes, "intermediate_size": 32, "llm_features_dim": 13 * 16, "mrope_section": (4, 2, 2)}
    blocks = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    vae_sizes = {"block_out_channels": (4,), "layers_per_block": 1, "latent_channels": 2, "norm_num_groups": 1}
    pipe = Ideogram4Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=seeded(lambda: AutoencoderKLFlux2(**blocks, **vae_sizes)),
        text_encoder=encoder,
        tokenizer=qwen_tokenizer(),
        transformer=seeded(lambda: Ideogram4Transformer2DModel(**options)),
        unconditional_transformer=seeded(lambda: Ideogram4Transformer2DModel(**options), seed=1),
    )
    _with_batch_norm(pipe)
    return quiet(pipe)


IDEOGRAM4 = Family(
    "ideogram4",
    Ideogram4Pipeline,
    build_ideogram4,
    {
        **ONE_STEP,
        "height": 8,
        "width": 8,
        "max_sequence_length": 128,
        "guidance_scale": 2.0,
        "guidance_schedule": None,
    },
)


def _calm_krea(pipe: Any) -> None:
    _with_statistics(pipe)
    _calm(pipe.transformer)


def _calm_aura(pipe: Any) -> None:
    _calm(pipe.transformer, 0.2)


def _calm_ernie(pipe: Any) -> None:
    _with_batch_norm(pipe)
    _calm(pipe.text_encoder)
    _calm(pipe.transformer)


def _case(
    name: str,
    family: str,
    objective: Objective,
    *trained: str,
    change: Callable[[Any], None] | None = None,
    **options: Any,
) -> TrainingFamily:
    build = FAMILY[family].build if change is None else _with(family, change)
    return TrainingFamily(name, FAMILY[family], trained or ("text_encoder",), objective, build, **options)


def _language_model(name: str, objective: Objective, **options: Any) -> TrainingFamily:
    """Return the case of a family whose vocabulary attaches spaces to words."""
    return _as_published(_case(name, name, objective, exact_everywhere=False, **options))


def _as_published(case: TrainingFamily) -> TrainingFamily:
    # The tiny pipelines of the loader's tests choose other layers and fewer tokens than the real ones.
    call = {key: value for key, value in case.family.call.items() if key not in _ALTERED}
    return replace(case, family=replace(case.family, call=call))


_ALTERED = ("max_sequence_length", "text_encoder_out_layers")


_CLIPS = ("text_encoder", "text_encoder_2")

TRAINING_FAMILIES = [
    _case("stable_diffusion", "stable_diffusion", stable_diffusion),
    _case("stable_diffusion_velocity", "stable_diffusion", stable_diffusion, change=_velocity),
    _case("stable_diffusion_xl", "stable_diffusion_xl", stable_diffusion_xl, *_CLIPS),
    _case("stable_diffusion_3", "stable_diffusion_3", stable_diffusion_3, *_CLIPS, change=_shifted),
    _case("stable_diffusion_3_without_t5", "stable_diffusion_3", stable_diffusion_3, *_CLIPS, change=_without_t5),
    _case("flux_dev", "flux", flux, change=_dev),
    _case("flux_schnell", "flux", flux, change=_schnell),
    _case("pixart_sigma", "pixart_sigma", pixart_sigma, exact_everywhere=False),
    _case("sana", "sana", sana, exact_everywhere=False),
    _language_model("z_image", z_image),
    _language_model("qwen_image", qwen_image, change=_with_statistics, decoding=normalised_by_channel),
    _language_model("qwen_image21", qwen_image21, change=_with_statistics, decoding=normalised_by_channel),
    _language_model("flux2", flux2, change=_deep, decoding=normalised_by_square),
    _language_model("flux2_klein", flux2_klein, change=_deep, decoding=normalised_by_square),
    _language_model("krea2", krea2, change=_calm_krea, decoding=normalised_by_channel),
    _language_model("ernie_image", ernie_image, change=_calm_ernie, decoding=normalised_by_square_1e_5),
    TrainingFamily(
        "ideogram4",
        IDEOGRAM4,
        ("text_encoder",),
        ideogram4,
        IDEOGRAM4.build,
        channels_last_by_square,
        exact_everywhere=False,
    ),
    _language_model("lumina2", lumina2),
    _language_model("cogview4", cogview4),
    _language_model("kolors", kolors, change=_scaled_linear),
    _case("chroma", "chroma", chroma, exact_everywhere=False),
    _case("hunyuan_dit", "hunyuan_dit", hunyuan_dit),
    _as_published(_case("hidream", "hidream", hidream, *_CLIPS, change=_long_clips_and_experts)),
    _case("aura_flow", "aura_flow", aura_flow, change=_calm_aura, exact_everywhere=False),
    _case("pixart_alpha", "pixart_alpha", pixart_alpha, exact_everywhere=False),
]
TRAINING_FAMILY = {case.name: case for case in TRAINING_FAMILIES}
