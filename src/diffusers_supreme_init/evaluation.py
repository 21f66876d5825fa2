"""A loaded concept -> how well its pictures show the object, and how well they still follow other prompts."""

import difflib
import inspect
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image
from tqdm.auto import tqdm

from .errors import ConfigError, SupremeInitError, UnsupportedPipelineError, one_line, shown
from .file_names import EVALUATION_NAME
from .files import json_bytes, write_atomically
from .inputs.field_values import is_text, whole_number
from .inputs.paths import looks_like_path
from .metrics import FidelityMetric, PromptMetric, default_metrics, denoising_mse
from .pictures import PictureSource, find_pictures, fit_to_square, load_picture
from .randomness import generator_for
from .templates import VALIDATION_TEMPLATE, append_description, check_templates, fill_template
from .text.prompt_cleaning import as_written
from .text.text_pairs import find_text_pairs
from .training.previews import warn_of_blackened
from .triggers import find_trigger, has_token
from .version import __version__

_PROMPT_NAME = re.compile(r"(negative_)?prompt(_\d)?")
_TAKEN = frozenset({"prompt", "generator", "num_images_per_prompt", "output_type", "return_dict"})
_JSON_TYPES = (bool, int, float, str, type(None))

_Pictures: TypeAlias = tuple[tuple[Image.Image, ...], ...]

RECONSTRUCTION_PROMPTS = ("A photo of {}", "A photo of a {}", "A good photo of a {}")
"""The paper's prompts for measuring a learned concept (section A.3); ``{}`` is the concept."""

EDITING_PROMPTS = (
    "a photo of a {} on the beach",
    "a photo of a {} in the snow",
    "a photo of a {} on top of a wooden table",
    "an oil painting of a {}",
    "a pencil drawing of a {}",
    "a photo of a {} in purple",
)
"""Prompts for things that the reference images do not show: other surroundings, a style, another color."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Values of one metric for the pictures of some prompts.

    Attributes:
        label: Name of the metric, for the axis of a plot.
        higher_is_better: True for a similarity, False for a distance.
        values: One value per picture, ``(num_prompts, num_seeds)``; NaN if the metric does not apply to a prompt.
    """

    label: str
    higher_is_better: bool
    values: tuple[tuple[float, ...], ...]

    @property
    def mean(self) -> float:
        """Mean over all pictures with a value; NaN if none has one."""
        return _mean([value for of_prompt in self.values for value in of_prompt])

    @property
    def std(self) -> float | None:
        """Standard deviation over seeds of the mean over prompts; None if fewer than two seeds have a value."""
        means = [_mean(of_seed) for of_seed in zip(*self.values, strict=True)]
        known = [mean for mean in means if not math.isnan(mean)]
        return statistics.stdev(known) if len(known) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The measured quality of a concept; `to_dict` returns the content of ``evaluation.json``.

    Attributes:
        placeholder_token: Name of the concept.
        description: The words that metrics read in place of the token; ``""`` if unknown.
        num_references: Number of reference images.
        prompts: Reconstruction prompts, as the pipeline read them.
        editing_prompts: Editing prompts, as the pipeline read them.
        seeds: Seeds of the noises; every prompt was drawn once per seed.
        sampling: Arguments of the pipeline.
        reconstruction: Scores of the pictures of `prompts`, by metric.
        editing: Scores of the pictures of `editing_prompts`, by metric.
        denoising_mse: Fixed-noise losses on the references, one per noise; None if they were not measured.
        pictures: The pictures of each prompt, one per seed: first those of `prompts`, then of `editing_prompts`.
    """

    placeholder_token: str
    description: str
    num_references: int
    prompts: tuple[str, ...]
    editing_prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    sampling: Mapping[str, Any]
    reconstruction: Mapping[str, Score]
    editing: Mapping[str, Score]
    denoising_mse: tuple[float, ...] | None
    pictures: _Pictures = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields but the pictures as JSON values; each score with its mean, spread and single values.

        Arguments of the pipeline that are neither numbers nor texts (a mask, a latent) are replaced by their type.
        """
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "pictures"}
        for group in ("reconstruction", "editing"):
            values[group] = {
                name: {"mean": score.mean, "std_over_seeds": score.std, **asdict(score)}
                for name, score in values[group].items()
            }
        if self.denoising_mse is not None:
            values["denoising_mse"] = {"mean": statistics.fmean(self.denoising_mse), "values": self.denoising_mse}
        sampling = {
            name: value if isinstance(value, _JSON_TYPES) else type(value).__name__
            for name, value in self.sampling.items()
        }
        return {**values, "sampling": sampling, "version": __version__}

    def write(self, output_dir: str | Path) -> Path:
        """Write ``evaluation.json``.

        Raises:
            OutputError: The folder cannot be written.
        """
        return write_atomically(Path(output_dir) / EVALUATION_NAME, json_bytes(self.to_dict()))


def evaluate(
    pipe: Any,
    placeholder_token: str,
    reference_images: PictureSource | Sequence[PictureSource],
    *,
    prompts: Sequence[str] = RECONSTRUCTION_PROMPTS,
    editing_prompts: Sequence[str] = EDITING_PROMPTS,
    seeds: Sequence[int] = (0, 1, 2, 3),
    description: str = "",
    metrics: Sequence[FidelityMetric | PromptMetric] | None = None,
    denoising_samples: int = 64,
    center_crop: bool = True,
    batch_size: int = 8,
    **sampling: Any,
) -> Evaluation:
    """Measure a concept that is loaded on a pipeline.

    ```python
    pipe.load_multitoken_inversion("user/mug")
    result = evaluate(pipe, "<mug>", "mug.jpg", description="a skull and bones mug", num_inference_steps=30)
    result.reconstruction["clip_i"].mean, result.editing["clip_t"].mean
    result.write("out/mug")
    ```

    Every prompt is drawn once per seed. The pictures of `prompts` measure fidelity: do they show the object? Those of
    `editing_prompts` measure editability: do they still follow the prompt? Training for too long improves the first
    and worsens the second. Equal seeds give equal noises for every concept, so concepts can be compared in pairs.

    Args:
        pipe: Any pipeline that draws from a prompt; it is used on its current device and left as it was.
        placeholder_token: Name of the concept.
        reference_images: Pictures of the object, as in training: pictures, paths or a folder.
        prompts: Texts with one ``{}``, by default the paper's.
        editing_prompts: Texts with one ``{}``; if empty, none are drawn. A description with an article of its own
            replaces an adjective before ``{}`` (see `fill_template`), so write ``"a {} in purple"``.
        seeds: At least one. Fidelity to a single picture varies a lot between noises, so use several.
        description: The words that the concept stands for, e.g. ``"a skull and bones mug"``. Articles in prompts are
            adapted to them, and metrics read them in place of the token, which no other model knows.
        metrics: Metrics of the pictures; None: ``metrics.default_metrics()``, which downloads weights and runs on the
            CPU.
        denoising_samples: Number of noises for `denoising_mse`, which is measured as in training, with the prompt
            ``"a photo of a {}"`` and the first of `seeds`; 0: do not measure it, e.g. on pipelines that cannot be
            trained on.
        center_crop: How references become squares, as in training.
        batch_size: Number of pictures that are drawn at once, and of noises that are measured at once.
        sampling: Arguments of the pipeline: ``num_inference_steps=30, guidance_scale=7.5, negative_prompt=...``.

    Raises:
        ConfigError: The concept is not loaded, or prompts, seeds, description, metrics or sampling are unusable.
        PictureError: A reference is unusable.
        MetricError: A metric lacks its weights, or cannot measure these pictures.
        UnsupportedPipelineError: The pipeline cannot be trained on; pass ``denoising_samples=0``.

    Warns:
        SupremeInitWarning: The safety checker replaced pictures with black ones, which are measured too.
    """
    _check_loaded(pipe, placeholder_token)
    seeds = _whole_numbers(seeds)
    if not seeds or len(set(seeds)) != len(seeds):
        raise ConfigError(f"seeds: expected at least one and all different, got {shown(seeds)}")
    (batch_size,) = _whole_numbers((batch_size,), "batch_size", least=1)
    (denoising_samples,) = _whole_numbers((denoising_samples,), "denoising_samples", least=0)
    wrong = [one for one in metrics or () if not isinstance(one, FidelityMetric | PromptMetric)]
    if wrong:
        raise ConfigError(
            f"metrics: expected metrics such as LPIPS(), got {shown(wrong[0])}; see diffusers_supreme_init.metrics"
        )
    if not is_text(description) or looks_like_path(description):
        raise ConfigError(f"description: expected words, got {shown(description)}")
    templates = check_templates(_texts("prompts", prompts))
    editing_templates = check_templates(_texts("editing_prompts", editing_prompts)) if editing_prompts else ()
    if taken := sorted(_TAKEN & sampling.keys()):
        raise ConfigError(
            f"sampling: expected arguments such as num_inference_steps, got {', '.join(taken)}, which evaluate sets "
            "itself; see prompts and seeds"
        )
    _check_names(pipe, sampling)
    references = [load_picture(source).image for source in find_pictures(reference_images)]
    if metrics is None:
        metrics = default_metrics()
    if not description.strip() and any(isinstance(metric, PromptMetric) for metric in metrics):
        raise ConfigError(
            f"description: expected the words that {placeholder_token} stands for, since a metric reads the prompts, "
            "got none; pass description='a skull and bones mug'"
        )

    def draw_and_score(templates: Sequence[str]) -> tuple[_Pictures, dict[str, Score]]:
        if not templates:
            return (), {}
        pictures = _draw(pipe, fill(templates), seeds, sampling, batch_size)
        flat = [picture for of_prompt in pictures for picture in of_prompt]
        squares = [_as_trained(reference, flat[0], center_crop=center_crop) for reference in references]
        read = [_in_words(template, description) for template in templates for _ in seeds]
        scores = {metric.name: _score(metric, flat, squares, read, num_seeds=len(seeds)) for metric in metrics}
        return pictures, scores

    def fill(templates: Sequence[str]) -> tuple[str, ...]:
        return tuple(fill_template(template, placeholder_token, description) for template in templates)

    loss = None
    if denoising_samples:
        (text,) = fill([VALIDATION_TEMPLATE])
        try:
            measured = denoising_mse(
                pipe,
                references,
                text,
                num_samples=denoising_samples,
                seed=seeds[0],
                center_crop=center_crop,
                batch_size=batch_size,
            )
        except UnsupportedPipelineError as error:
            raise UnsupportedPipelineError(f"{error}; or pass denoising_samples=0, and only pictures count") from error
        loss = tuple(measured.tolist())
    drawn, reconstruction = draw_and_score(templates)
    edited, editing = draw_and_score(editing_templates)
    return Evaluation(
        placeholder_token=placeholder_token,
        description=description,
        num_references=len(references),
        prompts=fill(templates),
        editing_prompts=fill(editing_templates),
        seeds=tuple(seeds),
        sampling=sampling,
        reconstruction=reconstruction,
        editing=editing,
        denoising_mse=loss,
        pictures=drawn + edited,
    )


def _whole_numbers(values: Any, name: str = "seeds", least: int | None = None) -> tuple[int, ...]:
    try:
        found = tuple(whole_number(one) for one in values)
        if isinstance(values, str | bytes) or (least is not None and min(found) < least):
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        if least is None:
            raise ConfigError(f"{name}: expected whole numbers such as range(4), got {shown(values)}") from error
        raise ConfigError(f"{name}: expected a whole number, at least {least}, got {shown(values[0])}") from error
    return found


def _texts(name: str, given: Any) -> tuple[str, ...]:
    texts = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Sequence) else ()
    if not texts or not all(is_text(text) for text in texts):
        raise ConfigError(f"{name}: expected at least one text with '{{}}', got {shown(given)}")
    return texts


def _check_loaded(pipe: Any, placeholder_token: str) -> None:
    if not isinstance(placeholder_token, str):
        raise ConfigError(f"placeholder_token: expected the name of a concept, got {shown(placeholder_token)}")
    tokenizers = [slot.tokenizer for pair in find_text_pairs(pipe) for slot in pair.slots]
    for tokenizer in tokenizers:  # after diffusers' own loader, the token has no trigger of ours
        if find_trigger(tokenizer, placeholder_token) is not None or has_token(tokenizer, placeholder_token):
            return
    raise ConfigError(
        f"placeholder_token: expected a concept that is loaded, got {placeholder_token!r}, which no tokenizer of this "
        f"{type(pipe).__name__} knows; call pipe.load_multitoken_inversion first"
    )


def _check_names(pipe: Any, sampling: Mapping[str, Any]) -> None:
    """Check that a pipeline reads all arguments; many take any name in ``**kwargs`` and ignore it."""
    known = inspect.signature(pipe.__call__).parameters
    if "prompt" in known and (unknown := [name for name in sampling if name not in known]):
        near = difflib.get_close_matches(unknown[0], known, n=1)
        raise ConfigError(
            f"sampling: expected arguments of {type(pipe).__name__}, got {unknown[0]}"
            + (f"; did you mean {near[0]}?" if near else "")
        )


def _draw(
    pipe: Any, texts: Sequence[str], seeds: Sequence[int], sampling: Mapping[str, Any], batch_size: int
) -> _Pictures:
    """Draw each text once per seed; a picture's noise depends only on its seed and the index of its text."""
    asked = [(number, text, seed) for number, text in enumerate(texts) for seed in seeds]
    arguments = {**as_written(pipe), **sampling}  # no cleaning or rewriting of prompts, which could lose the token
    pictures: list[list[Image.Image]] = [[] for _ in texts]
    flags = []
    hide = len(asked) <= batch_size
    for start in tqdm(range(0, len(asked), batch_size), desc="drawing", unit="batch", leave=False, disable=hide):
        batch = asked[start : start + batch_size]
        generators = [generator_for(seed, "", 0, number, "evaluation") for number, _, seed in batch]
        # Pipelines want one negative prompt for each prompt, and some refuse a text beside a list.
        others = {
            name: [value] * len(batch) if _PROMPT_NAME.fullmatch(name) and isinstance(value, str) else value
            for name, value in arguments.items()
        }
        try:
            output = pipe(prompt=[text for _, text, _ in batch], generator=generators, **others)
        except SupremeInitError:
            raise
        except (TypeError, ValueError, ArithmeticError) as error:
            raise ConfigError(
                f"sampling: {type(pipe).__name__} refuses its arguments ({one_line(error)}); got "
                f"{', '.join(f'{name}={shown(value)}' for name, value in sampling.items())}"
            ) from error
        flags.append(getattr(output, "nsfw_content_detected", None))
        for (number, _, _), picture in zip(batch, output.images, strict=True):
            pictures[number].append(picture)
    warn_of_blackened("pictures to measure", flags)
    return tuple(map(tuple, pictures))


def _as_trained(reference: Image.Image, drawn: Image.Image, *, center_crop: bool) -> Image.Image:
    """Return a reference as the square used in training, or unchanged if the pipeline does not draw squares."""
    if drawn.width != drawn.height:
        return reference
    return fit_to_square(reference, drawn.width, center_crop=center_crop)


def _in_words(template: str, description: str) -> str:
    before, after = template.split("{}")
    return append_description(before, description) + after


def _score(
    metric: FidelityMetric | PromptMetric,
    pictures: Sequence[Image.Image],
    references: Sequence[Image.Image],
    texts: Sequence[str],
    *,
    num_seeds: int,
) -> Score:
    measured = (
        metric.score(pictures, texts) if isinstance(metric, PromptMetric) else metric.compare(pictures, references)
    )
    values = measured.tolist()
    of_prompts = (tuple(values[start : start + num_seeds]) for start in range(0, len(values), num_seeds))
    return Score(label=metric.label, higher_is_better=metric.higher_is_better, values=tuple(of_prompts))


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan
