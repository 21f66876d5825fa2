"""Which pipeline classes of diffusers can be made of the parts of another one."""

import inspect
from collections.abc import Mapping

from .classes import annotated_name, readers_of, text_taking_classes

_MODELS = ("vae", "unet", "transformer")

LOADED_ONLY: Mapping[str, str] = {
    "AnimateDiffSDXLPipeline": "diffusers gives its UNet random size embeddings",
    "Flux2KleinKVPipeline": "distilled, and it leaves attention processors of its own in the transformer",
    "QwenImageEditPipeline": "its template shows a picture beside the prompt",
    "QwenImageEditInpaintPipeline": "its template shows a picture beside the prompt",
    "QwenImageEditPlusPipeline": "its template shows pictures beside the prompt",
    "QwenImageLayeredPipeline": "its autoencoder and transformer are made for layers with transparency",
    "SanaSprintPipeline": "distilled; its transformer reads a guidance scale",
    "SanaSprintImg2ImgPipeline": "distilled; its transformer reads a guidance scale",
    "StableDiffusionUpscalePipeline": "it scales latents otherwise; its UNet reads a small picture and its noise",
    "StableUnCLIPImg2ImgPipeline": "its UNet reads the embedding of a picture",
    "VisualClozePipeline": "its transformer reads a grid of pictures and their masks",
    "VisualClozeGenerationPipeline": "its transformer reads a grid of pictures and their masks",
    "ZImageOmniPipeline": "its transformer reads pictures that SigLIP encoded",
}
"""Classes with the parts of a family from which no trainer is made, and why; concepts load into them."""


def siblings_of(pipeline_class: type) -> tuple[type, ...]:
    """Return the other classes whose ``__init__`` takes the same text encoders, denoiser and autoencoder."""
    own = _parts(pipeline_class)
    return tuple(one for one in text_taking_classes() if one is not pipeline_class and _fit(own, _parts(one)))


def _parts(pipeline_class: type) -> dict[str, set[str]]:
    """Return the classes that each part may be of."""
    parameters = inspect.signature(pipeline_class.__init__).parameters
    named = {name: annotated_name(one.annotation) for name, one in parameters.items() if name in _MODELS}
    named |= {reader.encoder_name: reader.encoder for reader in readers_of(pipeline_class)}
    return {name: set(choice.split("|")) for name, choice in named.items()}


def _fit(own: dict[str, set[str]], others: dict[str, set[str]]) -> bool:
    return own.keys() == others.keys() and all(own[name] & others[name] for name in own)
