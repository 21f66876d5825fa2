"""The default settings of each family, in one table, with the source of each number."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class FamilyDefaults:
    """Default settings of a family.

    Attributes:
        learning_rate: AdamW's learning rate for the rows.
        learning_rate_source: Source of `learning_rate`.
        dtype: Precision in which the frozen parts are usually loaded; a hint only, nothing is cast.
        dtype_source: Reason or source of `dtype`.
        guidance: Value of the guidance embedding in training; None: the family has no guidance embedding.
        guidance_source: Source of `guidance`.
    """

    learning_rate: float
    learning_rate_source: str
    dtype: str
    dtype_source: str
    guidance: float | None = None
    guidance_source: str = ""


_PAPER_RATE = "the code of the paper: it passes 5e-4 and multiplies it by the batch size of 4"
_SAME_CLIP = "that of Stable Diffusion 1: what is trained is the same CLIP-L, beside a CLIP-G or alone"
_WIDE_EXPONENT = "the exponents of float32: in float16 the first steps are spent on finding a loss scale"
_DOCUMENTED = "diffusers' documentation loads it in"
_NO_PUBLISHED_RATE = "that of Stable Diffusion 1; none is published for rows of this text encoder, none was measured"

STABLE_DIFFUSION = FamilyDefaults(
    learning_rate=2e-3,
    learning_rate_source=_PAPER_RATE,
    dtype="bfloat16",
    dtype_source=_WIDE_EXPONENT,
)
STABLE_DIFFUSION_XL = FamilyDefaults(
    learning_rate=2e-3,
    learning_rate_source=f"{_SAME_CLIP}; invoke-training's sample configuration for SDXL has 2e-3 as well",
    dtype="bfloat16",
    dtype_source=f"{_WIDE_EXPONENT}; the autoencoder runs in float32 whatever it is loaded in",
)
STABLE_DIFFUSION_3 = FamilyDefaults(
    learning_rate=2e-3,
    learning_rate_source=_SAME_CLIP,
    dtype="bfloat16",
    dtype_source=f"{_WIDE_EXPONENT}; the published weights of 3.5 are bfloat16, those of 3 float16",
)
FLUX = FamilyDefaults(
    learning_rate=2e-3,
    learning_rate_source=_SAME_CLIP,
    dtype="bfloat16",
    dtype_source="the published weights are bfloat16",
    guidance=1.0,
    guidance_source="sd-scripts' advice for training on Flux.1-dev: at 1 the distilled model predicts the velocity of "
    "the data, not an extrapolated one",
)
HIDREAM = FamilyDefaults(
    learning_rate=2e-3,
    learning_rate_source=f"{_SAME_CLIP}; not measured",
    dtype="bfloat16",
    dtype_source=f"{_DOCUMENTED} bfloat16, Llama as well",
)
PIXART = FamilyDefaults(
    learning_rate=2e-3,
    learning_rate_source=_NO_PUBLISHED_RATE,
    dtype="bfloat16",
    dtype_source=f"{_WIDE_EXPONENT}, and T5 can overflow",
)
CHROMA = FamilyDefaults(
    learning_rate=2e-3,
    learning_rate_source=_NO_PUBLISHED_RATE,
    dtype="bfloat16",
    dtype_source=f"{_DOCUMENTED} bfloat16",
)
SANA = FamilyDefaults(
    learning_rate=5e-3,
    learning_rate_source="a quarter of that of the textual-inversion baseline of Directional Textual Inversion, whose "
    "code (github.com/kunheek/dti) passes 5e-3 for Sana and multiplies it by the batch size of 4; not measured",
    dtype="bfloat16",
    dtype_source=f"{_DOCUMENTED} float32, and casts text encoder and transformer to bfloat16",
)
LANGUAGE_MODEL = FamilyDefaults(
    learning_rate=2e-3,
    learning_rate_source="that of Stable Diffusion 1; none is published for rows of a language model; not measured",
    dtype="bfloat16",
    dtype_source=f"{_DOCUMENTED} bfloat16",
)
"""Of families whose text encoder is a language model: Z-Image, Qwen-Image and what came after."""
FLUX_2 = replace(
    LANGUAGE_MODEL, guidance=1.0, guidance_source="that of Flux.1-dev, which is distilled alike; not measured"
)
KOLORS = replace(LANGUAGE_MODEL, dtype="float16", dtype_source=f"{_DOCUMENTED} float16, as published")
HUNYUAN_DIT = replace(
    LANGUAGE_MODEL,
    learning_rate_source=_NO_PUBLISHED_RATE,
    dtype="float16",
    dtype_source=f"{_DOCUMENTED} float16; the published weights are float32",
)
AURA_FLOW = replace(
    LANGUAGE_MODEL,
    learning_rate_source=_NO_PUBLISHED_RATE,
    dtype_source=f"{_WIDE_EXPONENT}; published in float32 and float16",
)
