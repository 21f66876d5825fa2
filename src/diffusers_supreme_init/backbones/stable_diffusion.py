"""Stable Diffusion 1 and 2: one CLIP, a UNet that predicts noise, velocity or latents."""

from collections.abc import Sequence
from typing import Any, ClassVar

from diffusers import (
    AnimateDiffControlNetPipeline,
    AnimateDiffPAGPipeline,
    AnimateDiffPipeline,
    AnimateDiffSparseControlNetPipeline,
    AnimateDiffVideoToVideoControlNetPipeline,
    AnimateDiffVideoToVideoPipeline,
    LatentConsistencyModelImg2ImgPipeline,
    LatentConsistencyModelPipeline,
    LEditsPPPipelineStableDiffusion,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionControlNetPAGInpaintPipeline,
    StableDiffusionControlNetPAGPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionDepth2ImgPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionLatentUpscalePipeline,
    StableDiffusionPAGImg2ImgPipeline,
    StableDiffusionPAGInpaintPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionPipeline,
)
from torch import Tensor

from ..errors import UnsupportedPipelineError
from . import defaults
from .diffusion import DiffusionBackbone

_ARCHITECTURES = {768: "stable-diffusion-v1", 1024: "stable-diffusion-v2-512"}
_V2_VELOCITY = "stable-diffusion-v2-768-v"


class StableDiffusionBackbone(DiffusionBackbone):
    """See `Backbone`."""

    pipeline_classes: ClassVar[tuple[type, ...]] = (
        StableDiffusionPipeline,
        StableDiffusionImg2ImgPipeline,
        StableDiffusionInpaintPipeline,
        StableDiffusionControlNetPipeline,
        StableDiffusionControlNetImg2ImgPipeline,
        StableDiffusionControlNetInpaintPipeline,
        StableDiffusionAdapterPipeline,
        StableDiffusionPAGPipeline,
        AnimateDiffPipeline,
        AnimateDiffControlNetPipeline,
        AnimateDiffSparseControlNetPipeline,
        AnimateDiffVideoToVideoPipeline,
        AnimateDiffVideoToVideoControlNetPipeline,
        AnimateDiffPAGPipeline,
        LatentConsistencyModelImg2ImgPipeline,
        LatentConsistencyModelPipeline,
        LEditsPPPipelineStableDiffusion,
        StableDiffusionControlNetPAGInpaintPipeline,
        StableDiffusionControlNetPAGPipeline,
        StableDiffusionPAGImg2ImgPipeline,
        StableDiffusionPAGInpaintPipeline,
        StableDiffusionDepth2ImgPipeline,
        StableDiffusionInstructPix2PixPipeline,
        StableDiffusionLatentUpscalePipeline,
    )
    defaults = defaults.STABLE_DIFFUSION
    required = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    denoiser_name = "unet"

    def __init__(self, pipe: Any, train_text_encoders: Sequence[str] = ()) -> None:
        super().__init__(pipe, train_text_encoders)
        self.check_latent_channels()
        check_no_guidance_input(pipe)
        self.resolution = pipe.unet.config.sample_size * pipe.vae_scale_factor
        family = _ARCHITECTURES.get(self.pairs[0].hidden_size, "stable-diffusion")
        if family == _ARCHITECTURES[1024] and self.prediction_type == "v_prediction":
            family = _V2_VELOCITY
        self.architecture = f"{family}/textual-inversion"

    def encode_prompts(self, prompts: list[str]) -> Tensor:  # noqa: D102 - see `Backbone`
        embeds, _ = self.drawing_pipe.encode_prompt(
            prompts, self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return embeds

    def predict(  # noqa: D102
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Tensor, geometry: Tensor
    ) -> Tensor:
        dtype = self.compute_dtype
        return self.denoiser(noisy_latents.to(dtype), timesteps, encoder_hidden_states=conditioning.to(dtype)).sample


def check_no_guidance_input(pipe: Any) -> None:
    """Check that a UNet does not take the guidance scale as an input.

    Raises:
        UnsupportedPipelineError: The UNet takes it, as that of a latent consistency model does.
    """
    if pipe.unet.config.time_cond_proj_dim is not None:
        raise UnsupportedPipelineError(
            "expected a model without guidance distillation, got a latent consistency model; train on its base"
        )
