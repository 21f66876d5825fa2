"""What a tiny pipeline of any family is, how a test runs it, and which token ids reached its text encoders."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.pipelines.deprecated.blip_diffusion.modeling_ctx_clip import ContextCLIPTextModel
from diffusers.pipelines.kandinsky.text_encoder import MultilingualCLIP

from .text import seeded


@dataclass(frozen=True)
class Family:
    """One pipeline class, built tiny, with the arguments of its cheapest call.

    Attributes:
        name: Short name, as in ``"flux"``.
        pipeline_class: Class of the pipeline.
        build: Returns a fresh pipeline, each time with the same weights.
        call: Arguments of a minimal ``__call__`` besides the prompt and the generator.
        prompt_argument: Name of the prompt in ``__call__``.
        idle_encoders: Text encoders that the pipeline has and does not call.
    """

    name: str
    pipeline_class: type
    build: Callable[[], Any]
    call: Mapping[str, Any]
    prompt_argument: str = "prompt"
    idle_encoders: frozenset[str] = frozenset()


def run(family: Family, pipe: Any, prompt: str | list[str], **options: Any) -> np.ndarray:
    """Call the whole pipeline from a fixed noise and return what it makes: pixels, frames, sound or embeddings."""
    arguments = {family.prompt_argument: prompt, "generator": torch.Generator().manual_seed(0)}
    with torch.no_grad():
        output = pipe(**(arguments | dict(family.call) | options))
    made = output if isinstance(output, (np.ndarray, torch.Tensor)) else output[0]
    return _to_numpy(made)


def image_vae(quantized: bool = True, colors: int = 3) -> AutoencoderKL:
    """Return an autoencoder whose latents are half the picture's size; flow models have no `quantized` layers."""
    return seeded(
        lambda: AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(4, 8),
            norm_num_groups=2,
            in_channels=colors,
            out_channels=colors,
            latent_channels=4,
            sample_size=16,
            shift_factor=None if quantized else 0.1,
            use_quant_conv=quantized,
            use_post_quant_conv=quantized,
        )
    )


def quiet(pipe: Any) -> Any:
    """Return the pipeline with its progress bar off."""
    pipe.set_progress_bar_config(disable=True)
    return pipe


def text_encoders(pipe: Any) -> dict[str, torch.nn.Module]:
    """Return the text encoders of a pipeline by the names of their components."""
    modules = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    others = ("bert", "vision_language_encoder")  # of latent diffusion and of GLM-Image
    return {name: part for name, part in modules.items() if "text_encoder" in name or name in others}


class RecordIds:
    """While entered, record the token ids that reach the input embedding of every text encoder.

    Attributes:
        ids: Component name to the id tensors ``(batch, tokens)`` it was called with, in order.
    """

    def __init__(self, pipe: Any) -> None:
        self.ids: dict[str, list[torch.Tensor]] = {}
        self._pipe = pipe
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        for name, encoder in text_encoders(self._pipe).items():
            self._watch(name, encoder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def reached(self, name: str, wanted: list[int]) -> bool:
        """Whether some ids reached a text encoder in this order, with nothing in between."""
        return any(holds_run(row, wanted) for call in self.ids[name] for row in call.tolist())

    def _watch(self, name: str, encoder: Any) -> None:
        weight = input_embedding(encoder).weight
        seen = self.ids.setdefault(name, [])

        def record(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            seen.append(inputs[0].detach().clone())

        # T5 reads through `encoder.embed_tokens`, another module than `shared` with the same weight.
        for module in encoder.modules():
            if isinstance(module, torch.nn.Embedding) and module.weight is weight:
                self._handles.append(module.register_forward_pre_hook(record))


def holds_run(ids: list[int], wanted: list[int]) -> bool:
    """Whether some ids are among others in this order, with nothing in between."""
    return any(ids[start : start + len(wanted)] == wanted for start in range(len(ids)))


def input_embedding(encoder: Any) -> Any:
    """Return the embedding module of a text encoder."""
    try:
        return encoder.get_input_embeddings()
    except (AttributeError, NotImplementedError):  # they do not pass on what their text model has
        if isinstance(encoder, ContextCLIPTextModel):
            return encoder.text_model.embeddings.token_embedding
        inner = encoder.transformer if isinstance(encoder, MultilingualCLIP) else encoder.text_model  # CLAP
        return inner.get_input_embeddings()


def _to_numpy(made: Any) -> np.ndarray:
    if isinstance(made, torch.Tensor):
        return made.detach().float().cpu().numpy()
    if isinstance(made, (list, tuple)):
        return np.stack([_to_numpy(part) for part in made])
    return np.asarray(made, dtype=np.float32)
