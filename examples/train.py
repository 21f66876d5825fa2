"""Teach a model a new word from pictures and a description.

    accelerate launch examples/train.py --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 \
        --dtype bfloat16 --images mug.jpg --placeholder_token "<mug>" --initializer auto --output_dir out/mug

Without any option it trains on the mug of the toybox, which needs neither network nor GPU. Options of how to train
are the fields of `SupremeInitConfig`, those of how to find the words of `DescriberConfig`; the model is named by
`ModelArguments`, what to train by `RunArguments` and `RegionArguments`, what to publish by `HubArguments`.
"""

import contextlib
import json
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from describe import (
    TOYBOX,
    TOYBOX_PIPELINE,
    RegionArguments,
    load_pipeline,
    load_pipeline_config,
    parse,
    requested_describers,
    requested_region,
)
from diffusers import PipelineQuantizationConfig
from diffusers.quantizers import auto as quantizers
from transformers.quantizers import auto as encoder_quantizers

from diffusers_supreme_init import (
    PAPER_SETTINGS,
    SAMPLE_PROMPTS,
    Concept,
    ConfigError,
    DescriberConfig,
    SupremeInitConfig,
    SupremeInitError,
    SupremeInitTextualInversionTrainer,
    check_can_push,
    check_can_save,
    find_checkpoint,
    load_concepts,
)


@dataclass(kw_only=True)
class ModelArguments:
    """The pipeline to train on, and how it is loaded."""

    pretrained_model_name_or_path: str = field(
        default=TOYBOX_PIPELINE, metadata={"help": "Hub id or folder of the pipeline; default: the toybox."}
    )
    revision: str | None = field(default=None, metadata={"help": "Revision of the pipeline on the Hub."})
    variant: str | None = field(default=None, metadata={"help": "Variant of the weights, e.g. 'fp16'."})
    dtype: str = field(
        default="auto",
        metadata={
            "help": "Precision of the frozen weights; 'auto': on a GPU the usual one of the model's family.",
            "choices": ["auto", "float32", "bfloat16", "float16"],
        },
    )
    quant_backend: str | None = field(
        default=None,
        metadata={"help": "Quantise frozen parts with this backend of diffusers: bitsandbytes_4bit, torchao, ..."},
    )
    quant_kwargs: str = field(default="{}", metadata={"help": "Its arguments as JSON, '{\"load_in_4bit\": true}'."})
    components_to_quantize: list[str] = field(
        default_factory=list, metadata={"help": "Which, e.g. 'transformer text_encoder_2'; default: the denoiser."}
    )
    components_to_leave_out: list[str] = field(
        default_factory=list,
        metadata={"help": "Not loaded at all, e.g. 'text_encoder_3 tokenizer_3', the T5 of Stable Diffusion 3."},
    )

    def load(self) -> Any:
        """Return the pipeline.

        Raises:
            ConfigError: There is none of that name, or it cannot be quantised as asked for.
        """
        options: dict[str, Any] = {"revision": self.revision, "variant": self.variant}
        if self.components_to_leave_out:
            self._check_components("components_to_leave_out", self.components_to_leave_out)
            options |= dict.fromkeys(self.components_to_leave_out)
        if self.quant_backend is None:
            if self.components_to_quantize or self.quant_kwargs != "{}":
                raise ConfigError("quant_backend: expected one with components_to_quantize or quant_kwargs, got none")
            return load_pipeline(self.pretrained_model_name_or_path, self.dtype, **options)
        try:
            options["quantization_config"] = PipelineQuantizationConfig(quant_mapping=self._quantised())
            return load_pipeline(self.pretrained_model_name_or_path, self.dtype, **options)
        except (ImportError, RuntimeError) as error:
            raise ConfigError(f"quant_backend {self.quant_backend!r}: {' '.join(str(error).split())[:200]}") from error

    def _quantised(self) -> dict[str, Any]:
        """Return the configuration of each component that is quantised: diffusers and transformers have their own."""
        configs = {"diffusers": quantizers.AUTO_QUANTIZATION_CONFIG_MAPPING}
        configs["transformers"] = encoder_quantizers.AUTO_QUANTIZATION_CONFIG_MAPPING
        if any(self.quant_backend not in known for known in configs.values()):
            common = sorted(set.intersection(*map(set, configs.values())))
            raise ConfigError(f"quant_backend: expected one of {', '.join(common)}, got {self.quant_backend!r}")
        try:
            arguments = json.loads(self.quant_kwargs)
        except ValueError as error:
            raise ConfigError(f"quant_kwargs: expected JSON, got {self.quant_kwargs!r} ({error})") from error
        wanted = self.components_to_quantize or ["transformer", "unet"]
        libraries = self._check_components("components_to_quantize", self.components_to_quantize)
        try:
            return {
                name: configs[libraries[name]][self.quant_backend](**arguments) for name in wanted if name in libraries
            }
        except (TypeError, ValueError) as error:
            raise ConfigError(f"quant_kwargs: {' '.join(str(error).split())[:200]}") from error

    def _check_components(self, option: str, names: Sequence[str]) -> dict[str, str]:
        """Return the library of each component of the pipeline."""
        config = load_pipeline_config(self.pretrained_model_name_or_path, self.revision)
        libraries = {name: part[0] for name, part in config.items() if isinstance(part, list) and part[0] is not None}
        if unknown := [name for name in names if name not in libraries]:
            raise ConfigError(f"{option}: expected some of {', '.join(libraries)}, got {', '.join(unknown)}")
        return libraries


@dataclass(kw_only=True)
class RunArguments:
    """The concepts to train, and where they are saved."""

    images: list[str] = field(default_factory=list, metadata={"help": "Pictures, or folders of pictures."})
    mask: list[str] = field(default_factory=list, metadata={"help": "One mask per picture, for --masked_loss."})
    placeholder_token: str | None = field(default=None, metadata={"help": "The new word, e.g. '<mug>'."})
    initializer: str | None = field(
        default=None,
        metadata={
            "help": "'auto', 'caption' or 'class' to find the words it starts from, the words themselves, or a saved "
            "embedding to continue."
        },
    )
    train_on: str = field(
        default="crop",
        metadata={
            "help": "Of a region: 'crop', or 'image': the whole picture, its mask as weight of the loss.",
            "choices": ["crop", "image"],
        },
    )
    num_vectors: int | None = field(
        default=None, metadata={"help": "Rows; default: one per token of the initializer."}
    )
    paper: bool = field(
        default=False,
        metadata={"help": "Train with the paper's settings instead of the defaults; options change them."},
    )
    concepts: str | None = field(
        default=None, metadata={"help": "A metadata.jsonl with many concepts, instead of the options above."}
    )
    initializer_column: str = field(
        default="initializer", metadata={"help": "Column of metadata.jsonl with the words to start from."}
    )
    overwrite: bool = field(
        default=False,
        metadata={"help": "Replace results of the same tokens in the output folder and in the repository."},
    )


@dataclass(kw_only=True)
class HubArguments:
    """Whether, where and how the result is published."""

    push_to_hub: bool = field(default=False, metadata={"help": "Publish the result on the Hub; needs --hub_model_id."})
    hub_model_id: str | None = field(default=None, metadata={"help": "Repository to publish to, 'user/mug'."})
    hub_private_repo: bool = field(default=False, metadata={"help": "Make a new repository private."})
    hub_license: str | None = field(
        default=None, metadata={"help": "Licence of the card; default: that of the base model, if it is known."}
    )
    create_pr: bool = field(default=False, metadata={"help": "Open a pull request instead of committing."})
    sample_prompts: list[str] = field(
        default_factory=list,
        metadata={"help": "Prompts of the card's pictures; '{}' is the concept. Default: three if it is published."},
    )


def check_hub_arguments(hub: HubArguments) -> None:
    """Check before hours of training that the result can be published.

    Raises:
        ConfigError: An option is missing, or a prompt does not name the concept.
        PublishError: The name of the repository is invalid, or the logged-in user cannot push there.
    """
    if hub.push_to_hub != (hub.hub_model_id is not None):
        raise ConfigError("expected --push_to_hub and --hub_model_id together, got only one of them")
    if unfilled := [prompt for prompt in hub.sample_prompts if "{}" not in prompt]:
        raise ConfigError(f"--sample_prompts: expected '{{}}' where the concept stands, got {unfilled[0]!r}")
    if hub.hub_model_id is not None:
        check_can_push(hub.hub_model_id, create_pr=hub.create_pr)


def requested_concepts(run: RunArguments, region_arguments: RegionArguments) -> list[Concept]:
    """Return the concepts that the options name; without any, the toybox's mug, whose words the describers find.

    Raises:
        SupremeInitError: Options are missing or contradict each other.
    """
    region = requested_region(region_arguments)
    if (region is not None or region_arguments.candidates) and not run.images:
        raise ConfigError("expected --images with a region or with --candidates, got none")
    if run.concepts is not None:
        if run.images:
            raise ConfigError("expected either --concepts or --images, got both")
        if run.mask or run.num_vectors is not None or run.train_on != "crop":
            raise ConfigError(
                "expected mask_file_name, num_vectors and train_on as columns of --concepts, got options"
            )
        return load_concepts(run.concepts, initializer_column=run.initializer_column, initializer=run.initializer)
    if not run.images and run.placeholder_token is None and run.initializer is None:
        return load_concepts(TOYBOX / "concepts", initializer="auto")[:1]
    if not run.images or run.placeholder_token is None or run.initializer is None:
        raise ConfigError("expected --images, --placeholder_token and --initializer together, got only some of them")
    return [
        Concept(
            images=run.images,
            placeholder_token=run.placeholder_token,
            initializer=run.initializer,
            num_vectors=run.num_vectors,
            mask=run.mask or None,
            region=region,
            train_on=run.train_on,
            candidates=region_arguments.candidates,
        )
    ]


@contextlib.contextmanager
def stopping_on_interrupt(trainer: SupremeInitTextualInversionTrainer) -> Iterator[None]:
    """Let the first Ctrl-C end training after the step, so that what was learned is saved; the second interrupts."""

    def stop(*_: Any) -> None:
        signal.signal(signal.SIGINT, before)
        logging.getLogger(__name__).info("stopping after this step; Ctrl-C again ends at once and saves nothing")
        trainer.stop()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def main(arguments: list[str] | None = None) -> list[Path]:
    """Train and save; return the embedding files."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    given = sys.argv[1:] if arguments is None else arguments
    try:
        model, run, region_arguments, hub, config, describer_config = parse(
            (ModelArguments, RunArguments, RegionArguments, HubArguments, SupremeInitConfig, DescriberConfig),
            given,
            description=__doc__,
            output_dir="out/concept",
            **(PAPER_SETTINGS if "--paper" in given else {}),
        )
        check_hub_arguments(hub)
        concepts = requested_concepts(run, region_arguments)
        # `save` would refuse to write over somebody else's card or another result; better now than after hours of
        # training. A resumed run replaces what it saved itself.
        tokens = [concept.placeholder_token for concept in concepts]
        check_can_save(config.output_dir, tokens, overwrite=run.overwrite or find_checkpoint(config) is not None)
        describers = requested_describers(region_arguments, describer_config)
        trainer = SupremeInitTextualInversionTrainer(
            model.load(), concepts=concepts, describers=describers, config=config
        )
        try:
            with stopping_on_interrupt(trainer):
                trainer.train()
        finally:
            # A diverged concept raises after all others are complete; what was learned is saved either way.
            prompts = hub.sample_prompts or (SAMPLE_PROMPTS if hub.push_to_hub else ())
            files = []
            if trainer.results:
                files = trainer.save(config.output_dir, sample_prompts=prompts, overwrite=run.overwrite)
        published = None
        if hub.hub_model_id is not None:
            published = trainer.push_to_hub(
                hub.hub_model_id,
                private=hub.hub_private_repo or None,
                create_pr=hub.create_pr,
                license=hub.hub_license,
                overwrite=run.overwrite,
            )
    except SupremeInitError as error:
        sys.exit(f"error: {error}")
    if trainer.accelerator is not None and not trainer.accelerator.is_main_process:
        return files
    num_encoders = len(files) // max(len(trainer.results), 1)
    for index, concept in enumerate(trainer.results):
        own = ", ".join(map(str, files[index * num_encoders : (index + 1) * num_encoders]))
        losses = concept.mean_validation_losses()
        change = f", fixed-noise loss {losses[min(losses)]:.4f} -> {losses[max(losses)]:.4f}" if losses else ""
        print(f"{concept.placeholder_token}: {concept.status} after {concept.step} steps{change}: {own}")
    if published is not None:
        print(f"published: {published.url}" + ("" if published.is_new_commit else " (it held the same already)"))
    return files


if __name__ == "__main__":
    main()
