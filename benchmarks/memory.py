"""How much accelerator memory training takes, for each model family at its real size.

    python benchmarks/memory.py             # computed, in minutes: no accelerator, no weights
    python benchmarks/memory.py --measure   # also measured, on CUDA, with random weights

Computed: the package's own code runs on pipelines of fake tensors, which have a shape and no memory. A dispatch mode
follows every storage from the operator that makes it to its release, through the forward and the backward pass. So a
peak is one of live tensors: weights, what autograd saves, and what comes and goes in between.

The pipeline is on the CPU at first, and parts come to the accelerator as a run needs them. Its phases are:

- ``pictures``: the autoencoder, in float32, encodes a picture and its mirror image, one at a time if samples are;
- ``prompts``: text encoders that are not trained, CLIPs aside, read a prompt, beside the other text encoders;
- ``validation``: the fixed-noise loss, without gradient;
- ``step``: forward and backward pass;
- ``drawing``: only for previews and pictures of the card: the autoencoder decodes one, beside all that the steps need.

*Other ways*: PEFT copies the matrix at each look-up; scripts that train the whole matrix have its gradient and its
AdamW state. Here, a look-up adds the rows, equal prompts are encoded once, and the gradient is that of the rows alone.

Frozen parts have the dtype in which they are usually loaded; T5 has some layers in float32 beside float16, as
transformers loads it. Attention is the fused kernel of CUDA, which makes no matrix of tokens by tokens. The tokenizers
are made up and have one token per word; this matters only to the instruction that Sana puts before its prompts.

Not counted: the CUDA context (about 0.5 GB), workspaces of cuDNN, cuBLAS and fused kernels, the allocator's rounding
and fragmentation, and with 4-bit weights those of the layer that computes. GB are 10^9 bytes.
"""

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import real_sizes
import recent_sizes
import torch
from fake_accelerator import ACCELERATOR, LiveBytes, fake_accelerator
from PIL import Image
from real_sizes import CAPTION, Case
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from diffusers_supreme_init import Concept, SupremeInitConfig, SupremeInitTextualInversionTrainer, TrainingError
from diffusers_supreme_init.backbones import Backbone, backbone_for, is_clip
from diffusers_supreme_init.objective.draws import DenoisingSample
from diffusers_supreme_init.objective.latents import PictureLatents
from diffusers_supreme_init.objective.losses import denoising_losses
from diffusers_supreme_init.objective.phases import frozen
from diffusers_supreme_init.objective.recomputing import gradient_checkpointing, recomputed_layers
from diffusers_supreme_init.training import loop
from diffusers_supreme_init.training.beginning import begin_concept
from diffusers_supreme_init.training.preparation import check_concepts
from diffusers_supreme_init.training.progress import ConceptProgress
from diffusers_supreme_init.training.rows import TrainableRows, concepts_added

CASES = [*real_sizes.CASES, *recent_sizes.CASES]
VARIANTS = {
    "2 at once": SupremeInitConfig(),
    "2, checkpointed": SupremeInitConfig(gradient_checkpointing=True),
    "1 at a time": SupremeInitConfig(max_forward_batch_size=1),
    "1, checkpointed": SupremeInitConfig(max_forward_batch_size=1, gradient_checkpointing=True),
}
"""Settings that are compared, as the table names them."""

NF4_BYTES = 4.5 / 8
"""Of a weight in bitsandbytes' 4-bit format: 4 bits, and a float32 scale for each 64 weights."""

CONCEPT = Concept(
    images=Image.new("RGB", (64, 64)), placeholder_token="<mug>", initializer=CAPTION, templates=["a photo of {}"]
)


def build(case: Case, device: torch.device) -> Any:
    """Build a pipeline as it is loaded for training."""
    dtype, default = getattr(torch, case.dtype), torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            pipe = case.build()
    finally:
        torch.set_default_dtype(default)
    for part in pipe.components.values():
        kept = getattr(part, "_keep_in_fp32_modules", None) or ()  # by transformers, beside float16
        if isinstance(part, nn.Module) and dtype == torch.float16:
            for name, layer in part.named_modules():
                if name.rpartition(".")[2] in kept:
                    to_float32(layer)
    return pipe


def to_float32(module: nn.Module) -> None:
    """Do what `module.float()` does, which swaps tensors, and fake ones refuse that."""
    for part in module.modules():
        for name, weight in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(weight.detach().float(), requires_grad=weight.requires_grad))


@contextlib.contextmanager
def in_training(backbone: Backbone) -> Iterator[ConceptProgress]:
    """Freeze a pipeline and put the rows of a concept into it, as the trainer does."""
    size = backbone.resolution // backbone.pipe.vae_scale_factor
    latents = torch.zeros(1, 2, backbone.latent_channels, size, size)
    config = SupremeInitConfig()
    [initializations] = check_concepts(backbone, [CONCEPT], config).values()
    encoded = PictureLatents(latents, latents, None, torch.zeros(1, 6))
    concept = begin_concept(CONCEPT, config, initializations, encoded, None)
    modules = [*(pair.encoder for pair in backbone.pairs), backbone.denoiser]
    with concepts_added(backbone, [concept]), frozen(modules):
        rows = TrainableRows(backbone.trained, {concept.placeholder_token: concept.initial_rows})
        try:
            yield concept
        finally:
            rows.detach()


def pictures_peak(backbone: Backbone, device: torch.device, batch_size: int = 2) -> int:
    """Encode a picture and its mirror image, or one of them; the autoencoder is in float32 from then on."""
    to_float32(backbone.autoencoder)
    with frozen([backbone.autoencoder]), LiveBytes(device, [backbone.autoencoder]) as live:
        backbone.encode_pictures(torch.zeros(batch_size, 3, backbone.resolution, backbone.resolution, device=device))
    return live.peak


def drawing_peak(backbone: Backbone, device: torch.device) -> int:
    """Decode a picture, in the dtype in which the autoencoder was loaded."""
    decoder, size = backbone.autoencoder, backbone.resolution // backbone.pipe.vae_scale_factor
    latents = torch.zeros(1, backbone.latent_channels, size, size, dtype=decoder.dtype, device=device)
    if "temperal_downsample" in decoder.config:  # a video of one frame
        latents = latents.unsqueeze(2)
    with torch.no_grad(), LiveBytes(device, [*_on_call(backbone), backbone.denoiser, decoder]) as live:
        decoder.decode(latents)
    return live.peak


def prompts_peak(backbone: Backbone, concept: ConceptProgress, device: torch.device) -> int:
    """Let the large text encoders that are not trained read a prompt; 0 if there are none."""
    if not _large(backbone):
        return 0
    with torch.no_grad(), LiveBytes(device, [pair.encoder for pair in backbone.pairs]) as live:
        backbone.encode_prompts([concept.prompts[0]])
    return live.peak


def losses_peak(
    backbone: Backbone,
    concept: ConceptProgress,
    batch_size: int,
    device: torch.device,
    *,
    train: bool,
    checkpointing: bool = False,
    different_prompts: bool = False,
) -> int:
    """Make the forward pass of some samples at once and, when training, the backward pass."""
    latents, geometry = concept.latents.mean[0, 0], concept.latents.geometry[0]
    same = concept.prompts[0]
    other = same.replace("photo", "mug")  # of the same length
    prompts = [other if different_prompts and index else same for index in range(batch_size)]
    samples = [DenoisingSample(latents, latents, 500, prompt, None, geometry) for prompt in prompts]
    with contextlib.ExitStack() as stack:
        for encoder in _large(backbone):
            stack.enter_context(_remembering(encoder))
        stack.enter_context(gradient_checkpointing(backbone.denoiser, enabled=checkpointing))
        for pair in backbone.trained:
            stack.enter_context(recomputed_layers(pair.encoder, enabled=checkpointing and not is_clip(pair)))
        stack.enter_context(torch.set_grad_enabled(train))
        live = stack.enter_context(LiveBytes(device, [*_on_call(backbone), backbone.denoiser]))
        losses = denoising_losses(backbone, samples, device)
        if train:
            losses.sum().backward()
    return live.peak


def _on_call(backbone: Backbone) -> list[nn.Module]:
    """Return the text encoders that `ready_to_step` has on the accelerator beside the denoiser."""
    return [pair.encoder for pair in backbone.pairs if pair in backbone.trained or is_clip(pair)]


def _large(backbone: Backbone) -> list[nn.Module]:
    """Return the text encoders whose outputs `remembered_prompts` keeps."""
    return [pair.encoder for pair in backbone.described if not is_clip(pair)]


def _remembering(encoder: Any) -> Any:
    """Replace a text encoder by one that takes no memory but that of its result."""

    def look_up(
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool = False,
        **options: Any,
    ) -> BaseModelOutput:
        shape = (*input_ids.shape, encoder.config.hidden_size)
        num_layers = encoder.config.num_hidden_layers + 1 if output_hidden_states else 1
        layers = [torch.empty(shape, dtype=encoder.dtype, device=input_ids.device) for _ in range(num_layers)]
        return BaseModelOutput(last_hidden_state=layers[-1], hidden_states=tuple(layers))

    return mock.patch.object(encoder, "forward", look_up)


@dataclass(frozen=True)
class Computed:
    """What is known of a family.

    Attributes:
        trained: Text encoders whose rows are trained.
        resolution: Of its pictures, in pixels.
        concept: Rows and width of a concept in each of them.
        num_parameters: By component.
        denoiser_bytes: Of its weights: as they are, and with those of linear layers in 4 bits.
        encoder_bytes: The same of the text encoders that are trained and no CLIPs.
        peaks: Bytes by variant and phase of training; without the variants that the denoiser does not support.
        drawing: Bytes while a picture is drawn.
        matrix_bytes: Of the embedding matrices whose rows are trained.
        second_prompt: Bytes that a step of two samples takes more if their prompts differ; checkpointed, if it can be.
    """

    trained: str
    resolution: int
    concept: str
    num_parameters: dict[str, int]
    denoiser_bytes: tuple[int, int]
    encoder_bytes: tuple[int, int]
    peaks: dict[str, dict[str, int]]
    drawing: int
    matrix_bytes: int
    second_prompt: int

    def quantised(self, *, encoders: bool = False) -> dict[str, int]:
        """Return the peaks of the last variant with a denoiser in 4 bits, and perhaps text encoders.

        What is quantised stays on the accelerator from beginning to end.
        """
        peaks = dict(list(self.peaks.values())[-1])
        for whole, small in (self.denoiser_bytes, self.encoder_bytes) if encoders else (self.denoiser_bytes,):
            for phase in peaks:
                peaks[phase] += small - (whole if phase in ("validation", "step") else 0)
        return peaks


def weight_bytes(modules: Sequence[nn.Module]) -> tuple[int, int]:
    """Return the bytes of weights, as they are and with those of linear layers in 4 bits.

    The output matrix of a language model stays as it is, as with bitsandbytes.
    """
    weights = {id(weight): weight for module in modules for weight in module.parameters()}
    outputs = [module.get_output_embeddings() for module in modules if isinstance(module, PreTrainedModel)]
    linear_layers = [part for module in modules for part in module.modules() if isinstance(part, nn.Linear)]
    parts = [part for part in linear_layers if all(part is not output for output in outputs)]
    linear = {id(part.weight): part.weight for part in parts}
    whole = sum(weight.nbytes for weight in weights.values())
    saved = sum(weight.nbytes - weight.numel() * NF4_BYTES for weight in linear.values())
    return whole, round(whole - saved)


def compute(case: Case) -> Computed:
    """Compute the peaks of a family."""
    with fake_accelerator():
        backbone = backbone_for(build(case, ACCELERATOR))
        parts = {name: part for name, part in backbone.pipe.components.items() if isinstance(part, nn.Module)}
        counts = {name: sum(weight.numel() for weight in part.parameters()) for name, part in parts.items()}
        encoders = [pair.encoder for pair in backbone.trained if not is_clip(pair)]
        sizes = weight_bytes([backbone.denoiser]), weight_bytes(encoders)
        can_recompute = getattr(backbone.denoiser, "_supports_gradient_checkpointing", True)
        drawing = drawing_peak(backbone, ACCELERATOR)
        pictures = {size: pictures_peak(backbone, ACCELERATOR, size) for size in (1, 2)}
        with in_training(backbone) as concept:
            prompts = prompts_peak(backbone, concept, ACCELERATOR)
            peaks = {
                name: {"pictures": pictures[config.max_forward_batch_size or 2], "prompts": prompts}
                | _peaks_of_passes(backbone, concept, config)
                for name, config in VARIANTS.items()
                if can_recompute or not config.gradient_checkpointing
            }
            differing = losses_peak(
                backbone, concept, 2, ACCELERATOR, train=True, checkpointing=can_recompute, different_prompts=True
            )
    return Computed(
        ", ".join(pair.encoder_name for pair in backbone.trained),
        backbone.resolution,
        " + ".join(" x ".join(map(str, rows.shape)) for rows in concept.initial_rows.values()),
        counts,
        *sizes,
        peaks,
        drawing,
        sum(pair.embedding.weight.nbytes for pair in backbone.trained),
        differing - peaks["2, checkpointed" if can_recompute else "2 at once"]["step"],
    )


def _peaks_of_passes(backbone: Backbone, concept: ConceptProgress, config: SupremeInitConfig) -> dict[str, int]:
    limit, checkpointing = config.max_forward_batch_size, config.gradient_checkpointing
    validated, trained = limit or loop._VALIDATION_BATCH_SIZE, limit or config.train_batch_size
    step = losses_peak(backbone, concept, trained, ACCELERATOR, train=True, checkpointing=checkpointing)
    return {"validation": losses_peak(backbone, concept, validated, ACCELERATOR, train=False), "step": step}


def measure(case: Case, config: SupremeInitConfig) -> int:
    """Train for two steps on CUDA with random weights; return the peak of its allocator, in bytes."""
    pipe = build(case, torch.device("cuda")).to("cpu")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(TrainingError):  # random weights may overflow, which takes as much memory
        SupremeInitTextualInversionTrainer(pipe, concepts=[CONCEPT], config=replace(config, max_train_steps=2)).train()
    return torch.cuda.max_memory_allocated()


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, [":---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def highest(peaks: dict[str, int]) -> str:
    """Return the highest of some peaks, in GB, and its phase."""
    phase = max(peaks, key=peaks.__getitem__)
    return f"{peaks[phase] / 1e9:.1f} ({phase})"


def main() -> None:
    """Compute, measure if asked to, and print tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [case.name for case in CASES]
    parser.add_argument("--cases", nargs="+", choices=names, default=names, help="Which families; all by default.")
    parser.add_argument("--measure", action="store_true", help="Also train for two steps, on CUDA.")
    options = parser.parse_args()
    cases = [case for case in CASES if case.name in options.cases]
    found = {case.name: compute(case) for case in cases}

    print(f"Peak memory in GB, computed, and the phase that sets it; a concept that starts from {CAPTION!r}\n")
    about = ["family", "text encoders trained", "resolution, px", "parameters of a concept"]
    rows = [
        [name, one.trained, str(one.resolution), one.concept]
        + [highest(one.peaks[variant]) if variant in one.peaks else "" for variant in VARIANTS]
        + [highest(one.quantised()), highest(one.quantised(encoders=True)) if any(one.encoder_bytes) else ""]
        for name, one in found.items()
    ]
    print(table([*about, *VARIANTS, "the last of them, denoiser in 4 bits", "and encoder"], rows))
    print("Every phase, GB, computed\n")
    phases = [
        [name, variant, *(f"{peak / 1e9:.1f}" if peak else "" for peak in (*peaks.values(), one.drawing))]
        for name, one in found.items()
        for variant, peaks in one.peaks.items()
    ]
    print(table(["family", "variant", "pictures", "prompts", "validation", "step", "drawing"], phases))
    print("What other ways of training rows would add to a step, GB, computed\n")
    ways = ["family", "copy of the matrix", "gradient of all its rows", "AdamW's state of all", "a second prompt"]
    added = [(one.matrix_bytes, one.matrix_bytes, _adamw_bytes(one), one.second_prompt) for one in found.values()]
    rows = zip(found, added, strict=True)
    print(table(ways, [[name, *(f"{size / 1e9:.2f}" for size in sizes)] for name, sizes in rows]))
    print("Parameters, millions: as built (as published)\n")
    for case in cases:
        counts = found[case.name].num_parameters
        parts = (f"{name} {count / 1e6:.0f} ({case.published.get(name, '-')})" for name, count in counts.items())
        print(f"- {case.name}, {case.dtype}: {', '.join(parts)}")
    if options.measure:
        print(f"\nPeak memory in GB, measured on {torch.cuda.get_device_name()} / computed\n")
        print(table(["family", *VARIANTS], [[case.name, *_compared(case, found[case.name])] for case in cases]))


def _adamw_bytes(computed: Computed) -> int:
    """Return the bytes of two float32 averages for each number of the matrices, which are in half precision."""
    return computed.matrix_bytes // 2 * 2 * 4


def _compared(case: Case, computed: Computed) -> Iterator[str]:
    room = torch.cuda.get_device_properties("cuda").total_memory
    for variant, config in VARIANTS.items():
        if variant not in computed.peaks:
            yield ""
            continue
        expected = max(computed.peaks[variant].values())
        measured = f"{measure(case, config) / 1e9:.1f}" if expected < room else "does not fit"
        yield f"{measured} / {expected / 1e9:.1f}"


if __name__ == "__main__":
    main()
