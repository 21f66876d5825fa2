"""`supreme-init evaluate`: does a learned word keep the object, and do prompts still change it?"""

from dataclasses import replace
from pathlib import Path

from ..errors import ConfigError
from ..evaluation import evaluate
from ..files import check_writable
from ..loading.options import SourceOptions
from ..loading.reading import read_sources
from ..metrics import default_metrics
from ..pictures import find_pictures, load_picture
from .arguments import DrawingArguments, EvaluateArguments, ModelArguments
from .generate import base_model_of
from .parser import Parsed
from .pipelines import as_typed, check_model, device, load_pipeline, sampling_of
from .toybox import NAME


def run(parsed: Parsed) -> None:
    """Measure, write ``evaluation.json`` and say what it holds.

    Raises:
        SupremeInitError: A picture, a model, the concept or a metric cannot be used.
    """
    asked, model = parsed.of(EvaluateArguments), parsed.of(ModelArguments)
    if not asked.images:
        raise ConfigError(
            "expected a picture, got none; pictures come first: supreme-init evaluate mug.jpg --concept ..."
        )
    if asked.concept is None:
        raise ConfigError("expected --concept, a file, a folder or a Hub id, got none")
    for picture in find_pictures(asked.images):
        load_picture(picture)
    output_dir = Path(asked.output_dir or (asked.concept if Path(asked.concept).is_dir() else "out/evaluation"))
    if model.pretrained_model_name_or_path is None:
        model = replace(model, pretrained_model_name_or_path=base_model_of([asked.concept]))
    found = read_sources([asked.concept], None, SourceOptions(), has_token=False)
    if len(found) != 1:
        raise ConfigError(f"concept: expected one, got {asked.concept!r} with {len(found)}; name a folder in it")
    [(_, embeddings)] = found
    check_model(model)
    check_writable(output_dir)
    description = asked.description or embeddings[0].description or ""
    # CLIP and its like would have to be downloaded, and know photographs rather than drawn toys.
    metrics = [] if as_typed(model) == NAME else default_metrics()
    if not metrics:
        print("On the toybox only the denoising error is measured: the metrics of pictures know photographs.")
    pipe = load_pipeline(model).to(device())
    [report] = pipe.load_multitoken_inversion(asked.concept)
    result = evaluate(
        pipe,
        report.placeholder_token,
        asked.images,
        description=description,
        seeds=asked.seeds,
        metrics=metrics,
        **sampling_of(parsed.of(DrawingArguments), model),
    )
    path = result.write(output_dir)
    for group, scores in (("keeps the object", result.reconstruction), ("follows prompts", result.editing)):
        for score in scores.values():
            better = "higher" if score.higher_is_better else "lower"
            spread = "" if score.std is None else f" ± {score.std:.3f}"
            print(f"{group}: {score.label} {score.mean:.3f}{spread} ({better} is better)")
    if result.denoising_mse is not None:
        error = sum(result.denoising_mse) / len(result.denoising_mse)
        print(f"denoising error: {error:.4f} (lower is better; not the loss of training, which weighs its parts)")
    print(f"Everything is in {path}.")
