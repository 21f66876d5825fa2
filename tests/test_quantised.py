"""Frozen parts may be quantised: rows learn through them, and not a bit of them changes."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, PipelineQuantizationConfig
from diffusers import QuantoConfig as DenoiserQuantoConfig
from family_runs import CAPTION, conditioning, make_trainer
from tiny.families import run
from tiny.language_tokenizers import without_video
from training_families import TRAINING_FAMILY
from transformers import QuantoConfig as EncoderQuantoConfig

from diffusers_supreme_init import SupremeInitWarning, TrainingError, UnsupportedPipelineError
from diffusers_supreme_init.backbones import BACKBONES
from diffusers_supreme_init.objective.phases import on_device
from diffusers_supreme_init.text.text_pairs import find_text_pairs

pytestmark = [
    # Quanto goes with diffusers 1.0; until then it is the quantiser that runs on a CPU and imports without a word.
    pytest.mark.filterwarnings("ignore:.*(Quanto|torch_dtype).* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.* when it cleans prompts"),
]

QUANTISED = {
    "stable_diffusion": ["unet"],
    "stable_diffusion_xl": ["unet"],
    "stable_diffusion_3": ["transformer", "text_encoder_3"],
    "flux_dev": ["transformer", "text_encoder_2"],
    "pixart_sigma": ["transformer", "text_encoder"],
    "sana": ["transformer", "text_encoder"],
    "z_image": ["transformer", "text_encoder"],
    "qwen_image": ["transformer", "text_encoder"],
    "qwen_image21": ["transformer", "text_encoder"],
    "flux2_klein": ["transformer", "text_encoder"],
    "flux2": ["transformer", "text_encoder"],
    "krea2": ["transformer", "text_encoder"],
    "ernie_image": ["transformer", "text_encoder"],
    "ideogram4": ["transformer", "text_encoder"],
    "lumina2": ["transformer", "text_encoder"],
    "cogview4": ["transformer", "text_encoder"],
    "kolors": ["unet", "text_encoder"],
    "chroma": ["transformer", "text_encoder"],
    "pixart_alpha": ["transformer", "text_encoder"],
    "aura_flow": ["transformer", "text_encoder"],
    "hidream": ["transformer", "text_encoder_3", "text_encoder_4"],
    "hunyuan_dit": ["transformer", "text_encoder", "text_encoder_2"],
}


def load_quantised(name: str, folder: Path) -> Any:
    """Save a family's tiny pipeline and load it as users do who have less memory."""
    if not folder.exists():
        with without_video():
            TRAINING_FAMILY[name].build().save_pretrained(folder)
    mapping = {
        part: EncoderQuantoConfig(weights="int8") if "encoder" in part else DenoiserQuantoConfig(weights_dtype="int8")
        for part in QUANTISED[name]
    }
    with without_video():
        pipe = DiffusionPipeline.from_pretrained(
            folder, quantization_config=PipelineQuantizationConfig(quant_mapping=mapping), dtype=torch.float32
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def weights_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items() if isinstance(value, torch.Tensor)}


def each_in_turn(*fast: str) -> list[Any]:
    """Return the families as parameters, of which `make test` tries some."""
    return [pytest.param(name, marks=[] if name in fast else pytest.mark.slow) for name in QUANTISED]


@pytest.mark.parametrize("name", each_in_turn("pixart_sigma", "cogview4"))
def test_rows_learn_and_quantised_weights_stay(name: str, tmp_path: Path) -> None:
    case = TRAINING_FAMILY[name]
    pipe, fresh = (load_quantised(name, tmp_path / "pipeline") for _ in range(2))
    for part in QUANTISED[name]:
        assert any("QBytes" in type(weight).__name__ for weight in getattr(pipe, part).parameters()), part
    frozen = [part for part in (*QUANTISED[name], "vae") if part not in case.trained]
    before = {part: weights_of(getattr(pipe, part)) for part in frozen}
    literal = conditioning(pipe, f"a photo of {CAPTION}")
    make_trainer(pipe, max_train_steps=0).train()
    for one, other in zip(conditioning(pipe, "a photo of <mug>"), literal, strict=True):
        assert torch.equal(one, other)
    pipe.unload_multitoken_inversion("<mug>")
    trainer = make_trainer(pipe, validation_samples=2)
    (result,) = trainer.train()
    assert result.status == "finished"
    for rows in case.trained:
        assert (result.rows[rows] != result.initial_rows[rows]).any(dim=1).all()
    for part, weights in before.items():
        after = weights_of(getattr(pipe, part))
        assert after.keys() == weights.keys()
        assert all(torch.equal(after[key], weights[key]) for key in weights), part
    trainer.save(tmp_path / "mug")
    fresh.load_multitoken_inversion(tmp_path / "mug")
    assert np.array_equal(run(case.family, fresh, "a photo of <mug>"), run(case.family, pipe, "a photo of <mug>"))


@pytest.mark.parametrize("name", each_in_turn("stable_diffusion", "z_image"))
def test_rows_load_into_a_quantised_pipeline(name: str, tmp_path: Path) -> None:
    """The description draws what its words draw, to the last bit; a concept that was trained draws something else."""
    case, prompt = TRAINING_FAMILY[name], "a photo of {} on a wooden table"
    results = {}
    for token, steps in (("<words>", 0), ("<mug>", 2)):
        trainer = make_trainer(case.build(), token=token, max_train_steps=steps, learning_rate=0.1)
        (results[token],) = trainer.train()
        trainer.save(tmp_path / token.strip("<>"), sample_prompts=())
    pipe = load_quantised(name, tmp_path / "pipeline")
    words = run(case.family, pipe, prompt.format(CAPTION))
    for token, result in results.items():
        pipe.load_multitoken_inversion(tmp_path / token.strip("<>"))
        for pair in find_text_pairs(pipe):
            if pair.encoder_name in case.trained:
                assert torch.equal(pair.rows(token), result.rows[pair.encoder_name])
    assert np.array_equal(run(case.family, pipe, prompt.format("<words>")), words)
    made = run(case.family, pipe, prompt.format("<mug>"))
    assert np.isfinite(made).all()
    assert not np.array_equal(made, words)
    assert np.array_equal(run(case.family, pipe, prompt.format(CAPTION)), words)


def test_every_family_is_quantised() -> None:
    assert {TRAINING_FAMILY[name].family.pipeline_class for name in QUANTISED} == {
        backbone.pipeline_classes[0] for backbone in BACKBONES
    }


def test_gradients_through_int8_are_those_of_the_weights_it_stands_for(tmp_path: Path) -> None:
    """The same run on the weights that the quantised ones stand for gives nearly the same rows."""
    quantised = load_quantised("flux_dev", tmp_path / "pipeline")
    plain = TRAINING_FAMILY["flux_dev"].build()
    with torch.no_grad():
        for part in QUANTISED["flux_dev"]:
            meant = dict(getattr(quantised, part).named_parameters())
            for key, weight in getattr(plain, part).named_parameters():
                weight.copy_(meant[key].dequantize() if hasattr(meant[key], "dequantize") else meant[key])
    (one,) = make_trainer(quantised).train()
    (other,) = make_trainer(plain).train()
    moved = (other.rows["text_encoder"] - other.initial_rows["text_encoder"]).abs().max()
    assert (one.rows["text_encoder"] - other.rows["text_encoder"]).abs().max() < 0.1 * moved


def test_quantised_parts_come_to_the_device_like_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quantiser that loads on the CPU leaves it to others to move what it made."""
    transformer, asked = load_quantised("flux_dev", tmp_path / "pipeline").transformer, []
    monkeypatch.setattr(type(transformer), "to", lambda self, device: asked.append(str(device)))
    with on_device(transformer, torch.device("meta")):
        assert asked == ["meta"]
    assert asked == ["meta", "cpu"]
    with on_device(transformer, torch.device("cpu")):  # it is there
        assert len(asked) == 2


# -- quantised activations, and whatever else passes no gradient


def dynamic(module: torch.nn.Module) -> torch.nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has moved it to another package
        return torch.ao.quantization.quantize_dynamic(module, {torch.nn.Linear}, dtype=torch.qint8)


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_quantised_activations_are_refused_at_construction(pipe: Any, part: str) -> None:
    setattr(pipe, part, dynamic(getattr(pipe, part)))
    message = rf"{part}: expected activations that pass a gradient, got quantised ones \(Linear\); quantise only its"
    with pytest.raises(UnsupportedPipelineError, match=message):
        make_trainer(pipe)


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
@pytest.mark.parametrize(
    ("name", "is_refused"),
    [
        ("Int8DynamicActivationInt8WeightConfig", True),
        ("Int8DynamicActivationIntxWeightConfig", True),
        ("Int8WeightOnlyConfig", False),
        ("Float8WeightOnlyConfig", False),
        ("IntxWeightOnlyConfig", False),
    ],
)
def test_what_torchao_quantises(pipe: Any, name: str, part: str, is_refused: bool) -> None:
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")

    def wide(module: torch.nn.Module, _: str) -> bool:
        return isinstance(module, torch.nn.Linear) and module.in_features % 32 == 0  # the size of its groups

    quantization.quantize_(getattr(pipe, part), getattr(quantization, name)(), filter_fn=wide)
    if is_refused:
        with pytest.raises(UnsupportedPipelineError, match=rf"{part}: expected activations .* quantised ones \(Int"):
            make_trainer(pipe)
    else:
        (result,) = make_trainer(pipe).train()
        assert (result.rows["text_encoder"] != result.initial_rows["text_encoder"]).any(dim=1).all()


class Passing(torch.nn.Module):
    """Does to the gradient of a layer what a kernel of somebody else might do."""

    def __init__(self, layer: torch.nn.Module, change: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
        super().__init__()
        self.layer, self.change = layer, change

    def forward(self, *given: Any, **options: Any) -> Any:
        made = self.layer(*given, **options)
        changed = self.change(made)
        return made if changed is None else changed


class Wrong(torch.autograd.Function):
    """Leaves numbers alone and turns their gradient round."""

    @staticmethod
    def forward(_: Any, numbers: torch.Tensor) -> torch.Tensor:
        return numbers.clone()

    @staticmethod
    def backward(_: Any, *gradients: torch.Tensor) -> Any:
        return -gradients[0]


class Failing(Wrong):
    """Has no backward pass."""

    @staticmethod
    def backward(_: Any, *gradients: torch.Tensor) -> Any:
        raise RuntimeError("the kernel has no derivative\nat all")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            torch.Tensor.detach,
            "<mug>: no gradient reaches its rows in text_encoder, so they would not learn; train on",
        ),
        (lambda numbers: numbers * 0, "<mug>: no gradient reaches its rows in text_encoder"),
        (
            Wrong.apply,
            "<mug>: the gradient of its rows in text_encoder is wrong: along it, the loss changes by "
            "-(1|0\\.9\\d?) times what it says",
        ),
        (
            lambda numbers: 5 * numbers - 4 * numbers.detach(),
            r"is wrong: along it, the loss changes by 0\.(1[5-9]|2[0-5]?) times",
        ),
        (Failing.apply, r"<mug>: no gradient can be computed \(the kernel has no derivative at all\); train on"),
    ],
    ids=["none", "zero", "opposite", "five times", "fails"],
)
def test_a_model_that_passes_no_right_gradient_stops_the_run(
    pipe: Any, change: Callable[[torch.Tensor], torch.Tensor], message: str, unchanged: Callable[[Any], None]
) -> None:
    clip = getattr(pipe.text_encoder, "text_model", pipe.text_encoder)
    clip.final_layer_norm = Passing(clip.final_layer_norm, change)
    unchanged(pipe)
    trainer = make_trainer(pipe)
    with pytest.raises(TrainingError, match=message):
        trainer.train()
    assert trainer.results == []


def test_in_half_precision_a_gradient_of_another_length_is_only_warned_of(pipe: Any) -> None:
    clip = getattr(pipe.text_encoder, "text_model", pipe.text_encoder)
    whole = clip.final_layer_norm
    clip.final_layer_norm = Passing(whole, lambda numbers: 5 * numbers - 4 * numbers.detach())
    pipe.to(torch.bfloat16)
    with pytest.warns(SupremeInitWarning, match=r"<mug>: the gradient .* is doubtful: .* by 0\.\d+ times .* bfloat16"):
        assert make_trainer(pipe).train()[0].status == "finished"
    pipe.unload_multitoken_inversion()
    clip.final_layer_norm = Passing(whole, Wrong.apply)
    with pytest.raises(TrainingError, match="in text_encoder is wrong"):
        make_trainer(pipe).train()


@pytest.mark.parametrize("encoder_name", ["text_encoder", "text_encoder_2"])
@pytest.mark.parametrize(
    ("change", "times"),
    [(Wrong.apply, r"-(1|0\.9\d?)"), (lambda numbers: 0.1 * numbers + 0.9 * numbers.detach(), r"(10|9\.\d)")],
    ids=["opposite", "a tenth"],
)
def test_a_right_gradient_of_one_text_encoder_hides_no_wrong_one_of_another(
    encoder_name: str, change: Callable[[torch.Tensor], torch.Tensor], times: str
) -> None:
    pipe = TRAINING_FAMILY["stable_diffusion_xl"].build()
    encoder = getattr(pipe, encoder_name)
    getattr(encoder, "text_model", encoder).embeddings.register_forward_hook(lambda *given: change(given[-1]))
    message = (
        f"<mug>: the gradient of its rows in {encoder_name} is wrong: along it, the loss changes by {times} times"
    )
    with pytest.raises(TrainingError, match=message):
        make_trainer(pipe).train()


@pytest.mark.parametrize("dtype", ["no", "bf16", "bf16 weights"])
def test_right_gradients_pass_in_any_precision(pipe: Any, dtype: str) -> None:
    if dtype == "bf16 weights":
        pipe.to(torch.bfloat16)
    trainer = make_trainer(pipe, mixed_precision=dtype if dtype in ("no", "bf16") else None)
    assert trainer.train()[0].status == "finished"
