"""`SupremeInitConfig`: how to train; `DescriberConfig`: how to find words. A `Concept` says what to train."""

from dataclasses import dataclass, field
from typing import Any

from .errors import ConfigError
from .inputs.field_values import ABOVE_0, AT_LEAST_0, AT_LEAST_1, BELOW_1, NOT_EMPTY, UP_TO_1, Range, settle

LR_SCHEDULERS = ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial")
MIXED_PRECISIONS = ("no", "fp16", "bf16")
DRAWS = ("antithetic", "independent")
LEARNABLE_PROPERTIES = ("object", "style")
LABEL_SYNONYMS = ("first", "last", "all")
REGION_BACKGROUNDS = ("keep", "remove")
DESCRIBER_DTYPES = ("float32", "bfloat16", "float16")

_PRECISIONS = {"false": "no", "float16": "fp16", "bfloat16": "bf16"}  # YAML reads `no` as False
_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

_TRAINING_CHOICES = {
    "lr_scheduler": LR_SCHEDULERS,
    "learnable_property": LEARNABLE_PROPERTIES,
    "draws": DRAWS,
    "mixed_precision": MIXED_PRECISIONS,
}
_TRAINING_RANGES: dict[str, Range] = {
    **dict.fromkeys(("train_batch_size", "gradient_accumulation_steps", "num_validation_images"), AT_LEAST_1),
    **dict.fromkeys(("max_forward_batch_size", "resolution"), AT_LEAST_1),
    **dict.fromkeys(("max_train_steps", "lr_warmup_steps", "validation_samples", "seed"), AT_LEAST_0),
    **dict.fromkeys(("early_stopping_patience", "checkpointing_steps"), AT_LEAST_0),
    **dict.fromkeys(("learning_rate", "snr_gamma", "max_grad_norm", "adam_epsilon"), ABOVE_0),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), BELOW_1),
    **dict.fromkeys(("flip_probability", "unmasked_weight"), UP_TO_1),
    "report_to": NOT_EMPTY,
}
_DESCRIBER_CHOICES = {
    "label_synonym": LABEL_SYNONYMS,
    "region_background": REGION_BACKGROUNDS,
    "describer_dtype": DESCRIBER_DTYPES,
}
_DESCRIBER_RANGES: dict[str, Range] = {
    **dict.fromkeys(("num_labels", "num_captions", "region_margin"), AT_LEAST_0),
    **dict.fromkeys(("max_caption_tokens", "score_samples", "max_initializer_tokens"), AT_LEAST_1),
}


PAPER_SETTINGS: dict[str, Any] = {
    "max_train_steps": 100,
    "learning_rate": 2e-3,
    "train_batch_size": 4,
    "draws": "independent",
    "lr_scheduler": "constant",
    "adam_beta2": 0.999,
    "preserve_norm": False,
}
"""The settings of the paper's experiment on Stable Diffusion, where a default could differ.

The paper's code passes 5e-4 and multiplies it by the batch size; the rate here is the effective one.
"""


@dataclass(kw_only=True)
class SupremeInitConfig:
    """Settings of one training run, named as in diffusers' training scripts.

    The defaults are what measured best on the toybox (``docs/settings.md``); `paper` returns the paper's settings. The
    learning rate is never scaled. Weight decay is always 0, because it would pull the rows towards zero.

    Fields named ``*_steps`` of type `list[str]` are step schedules: ``"10"`` means step 10, ``"every:25"`` every 25th.
    A value whose meaning is plain is converted: ``"1e-4"``, ``2.0`` steps, ``[0, 10]`` as a schedule, ``"none"``.

    Raises:
        ConfigError: A value has the wrong type or is out of range, or two fields contradict each other.
    """

    max_train_steps: int = field(default=100, metadata={"help": "Optimizer steps."})
    learning_rate: float | None = field(
        default=None,
        metadata={"help": "AdamW's learning rate, never scaled; None: the model family's, 2e-3 for Stable Diffusion."},
    )
    train_text_encoders: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Components whose rows are trained (text_encoder, text_encoder_2, ...); the others read the "
            "description. None named: the CLIPs, or the only one."
        },
    )
    train_batch_size: int = field(
        default=2,
        metadata={"help": "Samples per concept in one pass, over all processes together: more processes, same rows."},
    )
    gradient_accumulation_steps: int = field(
        default=1, metadata={"help": "Passes per optimizer step; each concept sees this times the batch size samples."}
    )
    max_forward_batch_size: int | None = field(
        default=None,
        metadata={"help": "Upper limit of samples that go through the model at once (memory); None: the whole pass."},
    )
    draws: str = field(
        default="antithetic",
        metadata={
            "help": "'antithetic': the samples of a step are pairs with opposite noises, at evenly spread timesteps; "
            "'independent': each is drawn by itself, as in the paper."
        },
    )
    lr_scheduler: str = field(default="constant", metadata={"help": f"One of {', '.join(LR_SCHEDULERS)}."})
    lr_warmup_steps: int = field(default=0, metadata={"help": "Warm-up steps of the schedules that have a warm-up."})
    adam_beta1: float = field(default=0.9, metadata={"help": "AdamW's beta1, in [0, 1)."})
    adam_beta2: float = field(default=0.999, metadata={"help": "AdamW's beta2, in [0, 1)."})
    adam_epsilon: float = field(default=1e-8, metadata={"help": "AdamW's epsilon, above 0."})
    max_grad_norm: float | None = field(
        default=None, metadata={"help": "Clip the gradient of each concept's rows to this L2 norm."}
    )
    snr_gamma: float | None = field(
        default=None,
        metadata={
            "help": "Min-SNR loss weights (arXiv:2303.09556); the authors recommend 5. Without them, models that "
            "predict velocity learn most from the noisiest timesteps: colors and backgrounds, which prompts then no "
            "longer change."
        },
    )
    preserve_norm: bool = field(
        default=True,
        metadata={
            "help": "Rescale every row to its initial L2 norm after each step (one that starts as 0 stays free). "
            "Prompts are then obeyed more. A single row that starts from '*' learns less; the paper lets norms grow."
        },
    )
    masked_loss: bool = field(
        default=False, metadata={"help": "Weight the squared error with the concept's mask or the picture's alpha."}
    )
    unmasked_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the masked loss outside the mask, in [0, 1]. At 0 nothing says where the object ends, "
            "and whatever covers it fits as well; a little, such as 0.25, keeps its outline."
        },
    )
    learnable_property: str = field(
        default="object", metadata={"help": "'object' or 'style': which templates make the training prompts."}
    )
    resolution: int | None = field(
        default=None, metadata={"help": "Side of the training pictures in pixels; None: the model's own."}
    )
    center_crop: bool = field(
        default=True, metadata={"help": "Crop to the central square; otherwise squash the whole picture into it."}
    )
    flip_probability: float = field(
        default=0.5, metadata={"help": "Probability of a horizontal flip; 0 where left and right matter (writing)."}
    )
    mixed_precision: str | None = field(
        default=None,
        metadata={"help": "'no', 'fp16' or 'bf16' autocast; None: as in `accelerate launch`. Rows stay fp32."},
    )
    gradient_checkpointing: bool = field(
        default=False,
        metadata={
            "help": "Recompute activations in the backward pass, in the denoiser and in a T5 or language model that "
            "is trained: less memory."
        },
    )
    compile: bool = field(
        default=False,
        metadata={
            "help": "Compile the denoiser's repeated blocks (torch.compile): long in the first step, shorter in all "
            "others; rows differ by rounding."
        },
    )
    seed: int = field(default=0, metadata={"help": "All randomness of the run follows from it."})
    validation_steps: list[str] = field(
        default_factory=lambda: ["0", "every:25"],
        metadata={"help": "Steps after which the fixed-noise loss is measured; the last step always is."},
    )
    validation_samples: int = field(
        default=16,
        metadata={
            "help": "Noises, in pairs of opposite ones, of the fixed-noise loss, per concept; 0 switches it off."
        },
    )
    early_stopping_patience: int = field(
        default=0,
        metadata={
            "help": "Stop a concept, keeping its best rows, after this many validations without gain; 0: never."
        },
    )
    validation_prompt: str | None = field(
        default=None,
        metadata={"help": "Draw this prompt at every validation; '{}' (or its token) stands for each concept."},
    )
    num_validation_images: int = field(default=4, metadata={"help": "Pictures per validation prompt."})
    snapshot_steps: list[str] = field(
        default_factory=list,
        metadata={"help": "Steps after which `learned_embeds-steps-N.safetensors` is written to `output_dir`."},
    )
    checkpointing_steps: int = field(
        default=25, metadata={"help": "Write `output_dir/checkpoint.safetensors` every so many steps; 0: never."}
    )
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "A checkpoint file, or 'latest': the one in `output_dir`, if there is one."}
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder of checkpoints, snapshots, validation pictures and logs; None: none."}
    )
    logging_dir: str = field(default="logs", metadata={"help": "Folder of the trackers' logs, below `output_dir`."})
    report_to: str | None = field(
        default=None,
        metadata={"help": "Trackers known to accelerate, 'tensorboard,wandb' or 'all'; None: your accelerator's."},
    )

    def __post_init__(self) -> None:
        if isinstance(self.train_text_encoders, str):
            self.train_text_encoders = self.train_text_encoders.replace(",", " ").split()
        if isinstance(self.report_to, list | tuple) and all(isinstance(one, str) for one in self.report_to):
            self.report_to = ",".join(self.report_to) or None
        settle(
            self,
            ranges=_TRAINING_RANGES,
            choices=_TRAINING_CHOICES,
            aliases=_PRECISIONS,
            paths=("output_dir", "logging_dir", "resume_from_checkpoint"),
            schedules=("validation_steps", "snapshot_steps"),
        )
        if self.early_stopping_patience and not self.validation_samples:
            raise ConfigError(
                "early_stopping_patience needs the fixed-noise loss; got validation_samples=0, set it to 16"
            )
        if self.unmasked_weight and not self.masked_loss:
            raise ConfigError(
                f"unmasked_weight is a weight of the masked loss; got {self.unmasked_weight} without it, pass "
                "masked_loss=True"
            )
        needs_output_dir = {
            "snapshot_steps": bool(self.snapshot_steps),
            "resume_from_checkpoint='latest'": self.resume_from_checkpoint == "latest",
            "validation_prompt": self.validation_prompt is not None,
            "report_to": self.report_to is not None,
        }
        for name, used in needs_output_dir.items():
            if used and self.output_dir is None:
                raise ConfigError(f"{name} writes or reads files; expected an output_dir, got None; pass output_dir=")

    @classmethod
    def paper(cls, **changes: Any) -> "SupremeInitConfig":
        """Return the settings of the paper's experiment, with changes.

        Raises:
            ConfigError: As the class itself.
        """
        return cls(**{**PAPER_SETTINGS, **changes})

    @property
    def samples_per_step(self) -> int:
        """Samples of a concept in each optimizer step."""
        return self.train_batch_size * self.gradient_accumulation_steps


@dataclass(kw_only=True)
class DescriberConfig:
    """The models that find words and regions, and their settings.

    The captioner and the classifier serve the initializers ``"caption"``, ``"class"`` and ``"auto"``; the segmenter
    serves regions. A model is a Hub id, ``"user/name"`` or ``"user/name@revision"``, or a folder; it is loaded when
    first needed.

    Raises:
        ConfigError: A value has the wrong type or is out of range.
    """

    captioner: str = field(
        default="Salesforce/blip-image-captioning-base",
        metadata={"help": "Captioner: BLIP, BLIP-2, GIT, Florence-2, SmolVLM, ... (image-text-to-text)."},
    )
    classifier: str | None = field(
        default=None,
        metadata={
            "help": "Image classifier; None: google/vit-base-patch16-224, or openai/clip-vit-base-patch32 with "
            "candidate_labels."
        },
    )
    segmenter: str = field(
        default="facebook/sam-vit-base",
        metadata={"help": "Segmenter of regions: SAM, SAM-HQ, SAM 2, SAM 3; only SAM 3 takes words."},
    )
    candidate_labels: list[str] = field(
        default_factory=list, metadata={"help": "Labels of your own to choose from, instead of the classifier's."}
    )
    label_synonym: str = field(
        default="first", metadata={"help": "Which name of a label such as 'tabby, tabby cat': 'first', 'last', 'all'."}
    )
    num_labels: int = field(default=3, metadata={"help": "Class labels that 'auto' considers."})
    caption_prompt: str | None = field(
        default=None, metadata={"help": "What the captioner is asked, or begins with; None: what is usual for it."}
    )
    num_captions: int = field(default=3, metadata={"help": "Captions (beams) per picture that 'auto' considers."})
    max_caption_tokens: int = field(default=40, metadata={"help": "Longest caption, in tokens of the captioner."})
    clean_captions: bool = field(
        default=True, metadata={"help": "Remove phrases such as 'a close up of' and 'on a white background'."}
    )
    max_initializer_tokens: int | None = field(
        default=None, metadata={"help": "Cut found words to so many tokens; None: what fits the text encoder."}
    )
    score_samples: int = field(
        default=16,
        metadata={"help": "Noises, in pairs of opposite ones, by which candidates are compared, per candidate."},
    )
    score_object: bool = field(
        default=True,
        metadata={
            "help": "Compare candidates where the object is: in the region or mask, or else in what the segmenter "
            "finds in the middle of the picture, and avoid words about surroundings; False: on the whole picture, "
            "surroundings included."
        },
    )
    region_margin: float = field(
        default=0.1, metadata={"help": "Kept around a region, as a fraction of its longer side."}
    )
    region_background: str = field(
        default="keep", metadata={"help": "What surrounds a region in its crop: 'keep', or 'remove' (white)."}
    )
    describer_dtype: str = field(
        default="float32", metadata={"help": "Precision of the describers: float32, bfloat16 or float16."}
    )

    def __post_init__(self) -> None:
        settle(
            self,
            ranges=_DESCRIBER_RANGES,
            choices=_DESCRIBER_CHOICES,
            aliases=_DTYPES,
            paths=("captioner", "classifier", "segmenter"),
        )


def is_scheduled(schedule: list[str], step: int) -> bool:
    """Whether a step schedule such as ``["0", "10", "every:25"]`` includes `step`."""
    for entry in schedule:
        kind, _, number = entry.rpartition(":")
        if int(number) == step if not kind else step > 0 and step % int(number) == 0:
            return True
    return False
