"""Phases of a run: freeze the parts of a pipeline and move them between devices as each phase needs.

Every phase is a context manager that leaves the user's pipeline exactly as it was.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from ..backbones import Backbone, is_clip
from ..errors import UnsupportedPipelineError
from ..text.text_pairs import TextPair
from .adapters import image_prompts_set_aside
from .recomputing import gradient_checkpointing, recomputed_layers

NO_PROMPT = ""
"""The empty prompt of classifier-free guidance; pass it to `ready_to_step` before drawing."""


def check_trainable(backbone: Backbone) -> None:
    """Check that a pipeline's modules can be frozen, moved and wrapped.

    Raises:
        UnsupportedPipelineError: The pipeline is offloaded, has hooks of diffusers or weights that pass no gradient,
            or the embeddings of a text encoder to train carry an adapter.
    """
    for name, module in (backbone.drawing_pipe.components | backbone.pipe.components).items():
        if isinstance(module, nn.Module) and any(hasattr(part, "_hf_hook") for part in module.modules()):
            raise UnsupportedPipelineError(
                f"{name}: expected a pipeline without offloading hooks, got one; train before enabling offloading, or "
                "call pipe.remove_all_hooks()"
            )
        if isinstance(module, nn.Module):
            _check_weights(name, module)
    passing = {pair.encoder_name: pair.encoder for pair in backbone.trained} | {
        backbone.denoiser_name: backbone.denoiser
    }
    for name, module in passing.items():
        if kind := _quantised_activations(module):
            raise UnsupportedPipelineError(
                f"{name}: expected activations that pass a gradient, got quantised ones ({kind}); quantise only its "
                "weights"
            )
    for pair in backbone.trained:
        if isinstance(pair.embedding, BaseTunerLayer):
            raise UnsupportedPipelineError(
                f"{pair.encoder_name}: expected plain embeddings, got some with an adapter "
                f"({type(pair.embedding).__name__}); fuse it (pipe.fuse_lora()) and unload its weights, or train on a "
                "pipeline without it"
            )


def _check_weights(name: str, module: nn.Module) -> None:
    registries = [part._diffusers_hook for part in module.modules() if hasattr(part, "_diffusers_hook")]
    if hooks := {name for registry in registries for name in getattr(registry, "hooks", ())}:
        raise UnsupportedPipelineError(
            f"{name}: expected plain weights, got hooks of diffusers ({', '.join(sorted(hooks))}), as layerwise "
            "casting, group offloading and caches set them; train before enabling them"
        )
    for parameter in module.parameters():
        if parameter.is_meta:
            raise UnsupportedPipelineError(f"{name}: its weights are not loaded (they are on the meta device)")
        if parameter.is_inference():
            raise UnsupportedPipelineError(
                f"{name}: its weights were made under torch.inference_mode(), so no gradient passes; load the "
                "pipeline outside of it"
            )


def _quantised_activations(module: nn.Module) -> str | None:
    """Return the name of a class in a module that quantises activations, as torch's and torchao's do; None: none."""
    for part in module.modules():
        if type(part).__module__.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")):
            return type(part).__name__
    for weight in module.parameters():
        kind = type(weight.data).__name__
        how = [getattr(weight.data, name, None) for name in ("act_quant_kwargs", "activation_quantization")]
        if "ActivationQuantized" in kind or any(one is not None for one in how):
            return kind
    return None


@contextlib.contextmanager
def ready_to_encode(backbone: Backbone, device: torch.device) -> Iterator[None]:
    """Freeze the autoencoder and move it to a device, in float32 if it is in half precision."""
    autoencoder = backbone.autoencoder
    with frozen([autoencoder]), upcast(autoencoder), on_device(autoencoder, device):
        yield


@contextlib.contextmanager
def ready_to_step(
    backbone: Backbone,
    device: torch.device,
    prompts: Iterable[str],
    *,
    checkpointing: bool = False,
    compiling: bool = False,
) -> Iterator[None]:
    """Freeze the modules that the steps need and move them to a device; move the autoencoder to the CPU.

    Large text encoders that are not trained stay where they are; CLIPs are small and are moved too. The large ones
    encode `prompts` on the device first, before the denoiser takes its memory, and their outputs are remembered.

    Args:
        backbone: Backbone of a pipeline to which the concepts have been added.
        device: Device of the steps; modules already on it stay there.
        prompts: All prompts that the steps will use.
        checkpointing: Whether the denoiser, and text encoders that are trained and no CLIP, recompute their
            activations in the backward pass.
        compiling: Whether the denoiser's repeated blocks are compiled.
    """
    denoiser = backbone.denoiser
    on_call = [pair.encoder for pair in backbone.pairs if pair in backbone.trained or is_clip(pair)]
    with contextlib.ExitStack() as stack:
        stack.enter_context(image_prompts_set_aside(denoiser))
        stack.enter_context(frozen([*(pair.encoder for pair in backbone.pairs), denoiser]))
        stack.enter_context(on_device(backbone.autoencoder, torch.device("cpu")))
        for encoder in on_call:
            stack.enter_context(on_device(encoder, device))
        for pair in backbone.trained:
            stack.enter_context(recomputed_layers(pair.encoder, enabled=checkpointing and not is_clip(pair)))
        stack.enter_context(remembered_prompts(backbone, backbone.described, prompts, device))
        stack.enter_context(on_device(denoiser, device))
        stack.enter_context(backbone.passing_gradient())
        stack.enter_context(gradient_checkpointing(denoiser, enabled=checkpointing))
        stack.enter_context(compiled_blocks(denoiser, enabled=compiling))
        yield


@contextlib.contextmanager
def ready_to_draw(backbone: Backbone, device: torch.device) -> Iterator[None]:
    """Also move the modules that only drawing needs, such as the autoencoder; use within `ready_to_step`."""
    readers = [pair.encoder for pair in backbone.pairs]
    parts = [part for part in backbone.drawing_pipe.components.values() if isinstance(part, nn.Module)]
    with contextlib.ExitStack() as stack:
        for part in parts:
            # `torch.compile` wraps a module and keeps the original in `_orig_mod`.
            if all(getattr(part, "_orig_mod", part) is not reader for reader in readers):
                stack.enter_context(on_device(part, device))
        yield


@contextlib.contextmanager
def on_device(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Move a module temporarily; a quantised one that is already on an accelerator stays there."""
    home = next(module.parameters()).device
    if home == device or (is_quantised(module) and home.type != "cpu"):
        yield
        return
    try:
        # Inside the `try`, so that the module is also moved back if `.to` runs out of memory halfway.
        module.to(device)
        yield
    finally:
        module.to(home)


def is_quantised(module: nn.Module) -> bool:
    """Whether a module was loaded with a quantisation config, so that its weights are not plain numbers."""
    return getattr(module, "hf_quantizer", None) is not None or bool(getattr(module, "is_quantized", False))


@contextlib.contextmanager
def upcast(module: nn.Module) -> Iterator[None]:
    """Run a half-precision module in float32, because fp16 autoencoders overflow; the cost is once per picture.

    The round trip through float32 changes no bit of the weights.
    """
    dtypes = {parameter.dtype for parameter in module.parameters()}
    is_half = len(dtypes) == 1 and dtypes <= {torch.float16, torch.bfloat16} and not is_quantised(module)
    if is_half:
        module.float()
    try:
        yield
    finally:
        if is_half:
            # The models' own `to` in diffusers warns about casts, but this cast only undoes ours.
            nn.Module.to(module, dtypes.pop())


@contextlib.contextmanager
def frozen(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put modules in evaluation mode with their weights frozen; restore each module's and weight's flag at the end."""
    training = [(part, part.training) for module in modules for part in module.modules()]
    requires_grad = [(weight, weight.requires_grad) for module in modules for weight in module.parameters()]
    try:
        for module in modules:
            module.requires_grad_(False).eval()
        yield
    finally:
        for part, was_training in training:
            part.training = was_training
        for weight, required_grad in requires_grad:
            weight.requires_grad_(required_grad)


@contextlib.contextmanager
def compiled_blocks(denoiser: nn.Module, *, enabled: bool) -> Iterator[None]:
    """Compile a denoiser's repeated blocks, which takes a fraction of the time that the whole would take.

    What the user has compiled already stays as it is.
    """
    names = getattr(denoiser, "_repeated_blocks", None) or getattr(denoiser, "_no_split_modules", None) or ()
    is_compiled = hasattr(denoiser, "_orig_mod") or denoiser._compiled_call_impl is not None
    found = [part for part in denoiser.modules() if type(part).__name__ in names and part._compiled_call_impl is None]
    blocks = found if enabled and not is_compiled else []
    try:
        for block in blocks:
            block.compile()
        yield
    finally:
        for block in blocks:
            block._compiled_call_impl = None


@contextlib.contextmanager
def remembered_prompts(
    backbone: Backbone, pairs: Sequence[TextPair], prompts: Iterable[str], device: torch.device
) -> Iterator[None]:
    """Encode each prompt once on a device, then serve the text encoders' outputs from memory until the context ends.

    T5 is often the largest part of a pipeline after the denoiser, and sometimes larger than it. This way it occupies
    the accelerator only while the prompts of a run are encoded for the first time.

    Args:
        backbone: Backbone, which encodes prompts through the pipeline's own code.
        pairs: Text encoders without gradient; CLIPs among them are left alone.
        prompts: Prompts to encode in advance; without any, no encoder is moved. Any other prompt is encoded where its
            encoder is, and remembered too.
        device: Device on which `prompts` are encoded.
    """
    large = [pair for pair in pairs if not is_clip(pair)]
    if not large:
        yield
        return
    with contextlib.ExitStack() as stack:
        for pair in large:
            stack.enter_context(_remembering(pair.encoder))
        if in_advance := list(dict.fromkeys(prompts)):
            with contextlib.ExitStack() as reading, torch.no_grad():
                for pair in large:
                    reading.enter_context(on_device(pair.encoder, device))
                for prompt in in_advance:
                    backbone.encode_prompts([prompt])
        yield


@contextlib.contextmanager
def _remembering(encoder: Any) -> Iterator[None]:
    """Replace an encoder's forward pass with a look-up of single prompts, so that results do not depend on batches.

    Without a call for hidden states only the output is kept. With one only these are kept: a causal language model has
    the probabilities of its next words as output, which are many times larger.
    """
    forward, known = encoder.forward, {}
    # The user may have replaced `forward` on the instance; deleting ours would then not bring theirs back.
    of_user = vars(encoder).get("forward")

    def look_up(
        input_ids: Tensor, attention_mask: Tensor | None = None, output_hidden_states: bool = False, **options: Any
    ) -> Any:
        made = []
        for index in range(len(input_ids)):
            ids = input_ids[index : index + 1]
            mask = None if attention_mask is None else attention_mask[index : index + 1]
            key = (tuple(ids[0].tolist()), None if mask is None else tuple(mask[0].tolist()), output_hidden_states)
            if key not in known:
                home = encoder.get_input_embeddings().weight.device
                given = {} if mask is None else {"attention_mask": mask.to(home)}
                asked: dict[str, Any] = {"output_hidden_states": True} if output_hidden_states else {}
                with torch.no_grad():
                    output = forward(ids.to(home), **given, **asked)
                # Kept on the CPU, so that many prompts take no accelerator memory.
                known[key] = [layer.cpu() for layer in (output.hidden_states if output_hidden_states else output[:1])]
            made.append(known[key])
        layers = tuple(torch.cat(parts).to(input_ids.device) for parts in zip(*made, strict=True))
        return BaseModelOutput(last_hidden_state=layers[-1], hidden_states=layers if output_hidden_states else None)

    encoder.forward = look_up
    try:
        yield
    finally:
        del encoder.forward
        if of_user is not None:
            encoder.forward = of_user
