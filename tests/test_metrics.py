"""Metrics: equal to other packages' on random weights, invariant where they should be, clear in what they refuse."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import random_picture
from PIL import Image
from reference_metrics import (
    EVERY,
    REFERENCE,
    VARIABLE,
    head_weights,
    inception_weights,
    reference_pictures,
    vgg_weights,
)
from tiny.describers import build_clip, build_vit
from transformers import CLIPModel, Dinov2Config, Dinov2Model
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from diffusers_supreme_init import SupremeInitWarning
from diffusers_supreme_init.errors import MetricError
from diffusers_supreme_init.metrics import (
    LPIPS,
    SIFID,
    CLIPEmbedder,
    CLIPImageSimilarity,
    CLIPTextSimilarity,
    DINOv2Similarity,
    FidelityMetric,
    Gaussian,
    PromptMetric,
    fit_gaussian,
    frechet_distance,
)
from diffusers_supreme_init.metrics.inputs import fit, to_image
from diffusers_supreme_init.pictures import fit_to_square

*PICTURES, REFERENCE_PICTURE = reference_pictures()
EXPECTED = json.loads(REFERENCE.read_text())


def build_dinov2(folder: Path) -> Path:
    """Fill a folder like facebook/dinov2-small: resize to 40, crop to 32."""
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8, initializer_range=0.2
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Dinov2Model(config).save_pretrained(folder)
    BitImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random weights: vgg.safetensors (59 MB), heads.pth, inception.safetensors, clip/, dinov2/."""
    folder = tmp_path_factory.mktemp("weights")
    safetensors.torch.save_file(vgg_weights(), folder / "vgg.safetensors")
    torch.save(head_weights(), folder / "heads.pth")
    safetensors.torch.save_file(inception_weights(), folder / "inception.safetensors")
    build_clip(folder / "clip")
    build_dinov2(folder / "dinov2")
    return folder


@pytest.fixture(scope="session")
def metrics(weights: Path) -> dict[str, Any]:
    """Every metric by name."""
    clip = CLIPEmbedder(str(weights / "clip"))
    every = [
        LPIPS(weights / "vgg.safetensors", heads=weights / "heads.pth"),
        *(SIFID(weights / "inception.safetensors", layer=layer) for layer in (64, 192)),
        CLIPImageSimilarity(clip),
        DINOv2Similarity(str(weights / "dinov2")),
        CLIPTextSimilarity(clip),
    ]
    return {metric.name: metric for metric in every}


DISTANCES = ["lpips_vgg", "sifid_64", "sifid_192"]
COSINES = ["clip_i", "dinov2_i"]
FIDELITY = DISTANCES + COSINES


def to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image) / 255).permute(2, 0, 1)


# The same numbers as other packages


def test_lpips_is_that_of_torchmetrics(metrics: dict[str, Any]) -> None:
    values = metrics["lpips_vgg"].compare(PICTURES, [REFERENCE_PICTURE])
    assert values.tolist() == pytest.approx(EXPECTED["lpips"]["random"], rel=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("torchmetrics") is None, reason="torchmetrics has the heads of LPIPS")
def test_lpips_finds_the_published_heads(weights: Path) -> None:
    values = LPIPS(weights / "vgg.safetensors").compare(PICTURES, [REFERENCE_PICTURE])
    assert values.tolist() == pytest.approx(EXPECTED["lpips"]["published"], rel=1e-5)


@pytest.mark.parametrize("layer", [64, 192])
def test_sifid_is_that_of_torchvision_and_scipy(layer: int, metrics: dict[str, Any]) -> None:
    metric, expected = metrics[f"sifid_{layer}"], EXPECTED[f"features_{layer}"]
    features = metric._features(REFERENCE_PICTURE[None])
    assert list(features.shape) == expected["shape"]
    assert features.flatten()[::EVERY].tolist() == pytest.approx(expected["values"], rel=1e-4, abs=1e-5)
    values = metric.compare(PICTURES, [REFERENCE_PICTURE])
    assert values.tolist() == pytest.approx(EXPECTED[f"sifid_{layer}"], rel=1e-5)


@pytest.mark.skipif(not os.environ.get(VARIABLE), reason=f"{VARIABLE} names no folder with torchvision")
def test_the_reference_values_are_what_the_packages_say() -> None:
    script = Path(__file__).parent / "reference_metrics.py"
    run = subprocess.run(
        [sys.executable, str(script), "--print"], check=True, capture_output=True, text=True, timeout=300
    )
    found = json.loads(run.stdout)
    for heads, values in EXPECTED["lpips"].items():
        assert found["lpips"][heads] == pytest.approx(values, rel=1e-5)
    for layer in (64, 192):
        assert found[f"sifid_{layer}"] == pytest.approx(EXPECTED[f"sifid_{layer}"], rel=1e-5)
        assert found[f"features_{layer}"]["shape"] == EXPECTED[f"features_{layer}"]["shape"]
        values = EXPECTED[f"features_{layer}"]["values"]
        assert found[f"features_{layer}"]["values"] == pytest.approx(values, rel=1e-4, abs=1e-5)


def test_clip_is_that_of_transformers(metrics: dict[str, Any], weights: Path) -> None:
    images, texts = [random_picture((64, 48), seed) for seed in range(3)], ["a mug", "a red mug on a table", "a clock"]
    model = CLIPModel.from_pretrained(weights / "clip").eval()
    pixel_values = CLIPImageProcessorPil.from_pretrained(weights / "clip")(images, return_tensors="pt").pixel_values
    tokens = metrics["clip_t"].clip.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, pixel_values=pixel_values)
    pictures, words = output.image_embeds.double(), output.text_embeds.double()
    assert torch.allclose(metrics["clip_t"].score(images, texts), (pictures * words).sum(-1), atol=1e-6)
    expected = (pictures[:2] @ pictures[2:].T).flatten()
    assert torch.allclose(metrics["clip_i"].compare(images[:2], images[2:]), expected, atol=1e-6)


def test_dinov2_is_that_of_transformers(metrics: dict[str, Any], weights: Path) -> None:
    images = [random_picture((64, 48), seed) for seed in range(3)]
    model = Dinov2Model.from_pretrained(weights / "dinov2").eval()
    inputs = BitImageProcessorPil.from_pretrained(weights / "dinov2")(images, return_tensors="pt")
    with torch.no_grad():
        classes = model(**inputs).last_hidden_state[:, 0].double()
    expected = torch.nn.functional.cosine_similarity(classes[:2], classes[2:])
    assert torch.allclose(metrics["dinov2_i"].compare(images[:2], images[2:]), expected, atol=1e-6)


# Gaussians


def random_gaussian(dim: int, rank: int | None = None, seed: int = 0) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(dim, rank or dim, generator=generator, dtype=torch.float64)
    return Gaussian(torch.randn(dim, generator=generator, dtype=torch.float64), factor @ factor.T)


def test_distances_of_gaussians_in_closed_form() -> None:
    first, second = random_gaussian(7, seed=1), random_gaussian(7, seed=2)
    variances, others = first.covariance.diagonal(), second.covariance.diagonal()
    diagonal = frechet_distance(Gaussian(first.mean, variances.diag()), Gaussian(second.mean, others.diag()))
    moved = (first.mean - second.mean).square().sum()
    assert diagonal.item() == pytest.approx(
        (moved + (variances.sqrt() - others.sqrt()).square().sum()).item(), rel=1e-12
    )
    scaled = frechet_distance(first, Gaussian(first.mean, 2.5**2 * first.covariance))
    assert scaled.item() == pytest.approx(1.5**2 * first.covariance.trace().item(), rel=1e-12)
    translated = frechet_distance(first, Gaussian(second.mean, first.covariance))
    assert translated.item() == pytest.approx(moved.item(), rel=1e-10)
    assert diagonal.dtype == torch.float64


@pytest.mark.parametrize("rank", [None, 3])
def test_distances_of_gaussians_keep_their_symmetries(rank: int | None) -> None:
    first, second = random_gaussian(7, rank, seed=1), random_gaussian(7, rank, seed=2)
    distance = frechet_distance(first, second)
    assert frechet_distance(second, first).item() == pytest.approx(distance.item(), rel=1e-10)
    assert 0 <= frechet_distance(first, first).item() < 1e-10
    rotation = torch.linalg.qr(random_gaussian(7, seed=3).covariance).Q
    turned = [Gaussian(rotation @ g.mean, rotation @ g.covariance @ rotation.T) for g in (first, second)]
    assert frechet_distance(*turned).item() == pytest.approx(distance.item(), rel=1e-10)


def test_distances_of_gaussians_of_low_rank_in_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 60, 7, generator=generator, dtype=torch.float64)
    # The root of a product of A A^T and B B^T has the trace of the singular values of A^T B.
    overlap = torch.linalg.svdvals(first.T @ second).sum()
    expected = first.square().sum() + second.square().sum() - 2 * overlap
    distance = frechet_distance(*(Gaussian(torch.zeros(60).double(), each @ each.T) for each in (first, second)))
    assert distance.item() == pytest.approx(expected.item(), rel=1e-12)


def test_gaussians_of_vectors() -> None:
    vectors = torch.rand(2, 50, 6, generator=torch.Generator().manual_seed(0))
    gaussian = fit_gaussian(vectors)
    assert gaussian.covariance.dtype == torch.float64
    for index, each in enumerate(vectors.double().numpy()):
        assert np.allclose(gaussian.mean[index], each.mean(0), atol=1e-14)
        assert np.allclose(gaussian.covariance[index], np.cov(each, rowvar=False), atol=1e-14)
    permuted = fit_gaussian(vectors[:, torch.randperm(50, generator=torch.Generator().manual_seed(1))])
    assert frechet_distance(gaussian, permuted).max() < 1e-12
    with pytest.raises(
        MetricError, match="expected at least two vectors for a covariance, got 1; use larger pictures"
    ):
        fit_gaussian(vectors[:, :1])


# What holds for every metric


def test_what_metrics_say_of_themselves(metrics: dict[str, Any]) -> None:
    for name in FIDELITY:
        assert isinstance(metrics[name], FidelityMetric)
        assert metrics[name].higher_is_better == (name in COSINES)
    assert isinstance(metrics["clip_t"], PromptMetric)
    assert not isinstance(metrics["clip_t"], FidelityMetric)
    assert metrics["sifid_64"].label == "SIFID (layer 64)"
    assert len({metric.label for metric in metrics.values()}) == len(metrics)


def test_sifid_measures_at_the_layer_of_the_paper_unless_asked(weights: Path) -> None:
    assert SIFID(weights / "inception.safetensors").name == "sifid_192"


@pytest.mark.parametrize("name", FIDELITY)
def test_equal_pictures(name: str, metrics: dict[str, Any]) -> None:
    image = random_picture((64, 48))
    values = metrics[name].compare([image], [image.copy()])
    assert values.dtype == torch.float64
    assert values.item() == pytest.approx(1 if name in COSINES else 0, abs=1e-7)
    assert name in COSINES or values.item() >= 0


@pytest.mark.parametrize("name", FIDELITY)
def test_pictures_and_references_change_places(name: str, metrics: dict[str, Any]) -> None:
    first, second = (
        metrics[name].compare(PICTURES[0][None], PICTURES[1:]),
        metrics[name].compare(PICTURES[1:], PICTURES[:1]),
    )
    assert first.item() == pytest.approx(second.item(), rel=1e-6)
    assert first.item() != pytest.approx(1 if name in COSINES else 0, abs=1e-4)


@pytest.mark.parametrize("name", FIDELITY)
def test_a_batch_is_its_pictures_one_by_one(
    name: str, metrics: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffusers_supreme_init.metrics.lpips._MAX_PIXELS", 2 * 80 * 72)
    monkeypatch.setattr("diffusers_supreme_init.metrics.sifid._MAX_PIXELS", 2 * 80 * 72)
    monkeypatch.setattr("diffusers_supreme_init.metrics.embeddings._BATCH_SIZE", 2)
    metric, other_size = metrics[name], random_picture((64, 48), seed=1)
    pictures = [PICTURES[0], other_size, PICTURES[1], REFERENCE_PICTURE, other_size.rotate(90)]
    references = [random_picture((40, 40), seed=2), REFERENCE_PICTURE]
    alone = [[metric.compare([picture], [reference]).item() for reference in references] for picture in pictures]
    together = metric.compare(pictures, references)
    assert together.tolist() == pytest.approx(np.mean(alone, axis=1).tolist(), rel=1e-4, abs=1e-6)
    assert metric.compare(pictures, references[::-1]).tolist() == pytest.approx(together.tolist(), rel=1e-9, abs=1e-9)
    stacked = metric.compare(torch.stack(PICTURES), references)
    assert stacked.tolist() == pytest.approx(together[[0, 2]].tolist(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", FIDELITY)
def test_a_tensor_is_the_image_of_the_same_pixels(name: str, metrics: dict[str, Any]) -> None:
    images = [random_picture((64, 48), seed=seed) for seed in range(2)]
    reference = random_picture((90, 70), seed=2)
    tensors = [to_tensor(image).requires_grad_() for image in images]
    expected = metrics[name].compare(images, [reference])
    assert torch.equal(metrics[name].compare(tensors, [to_tensor(reference)]), expected)
    transparent = random_picture((64, 48), mode="RGBA")
    on_white = Image.alpha_composite(Image.new("RGBA", transparent.size, "white"), transparent).convert("RGB")
    seen = [metrics[name].compare([image], [reference]) for image in (transparent, on_white)]
    assert torch.equal(*seen)


def test_texts_belong_to_their_pictures(metrics: dict[str, Any]) -> None:
    images, texts = [random_picture((64, 48), seed) for seed in range(20)], [f"a mug number {i}" for i in range(20)]
    metric = metrics["clip_t"]
    values = metric.score(images, texts)
    assert values.dtype == torch.float64
    assert values.tolist() == pytest.approx(metric.score(images[::-1], texts[::-1]).flip(0).tolist(), abs=1e-6)
    assert torch.allclose(values[19:], metric.score(torch.stack([to_tensor(images[19])]), texts[19:]), atol=1e-6)
    assert values.abs().max() <= 1


def test_a_photo_of_another_size_is_cropped_and_resized_as_for_training(metrics: dict[str, Any]) -> None:
    photo = random_picture((160, 96), seed=3)
    fitted = fit(to_tensor(photo).float(), 48, 48)
    assert torch.equal(fitted, to_tensor(fit_to_square(photo, 48, center_crop=True)).float())
    picture = random_picture((48, 48), seed=4)
    for name in DISTANCES:
        values = metrics[name].compare([picture, fitted], [photo])
        assert values[0].item() == pytest.approx(metrics[name].compare([picture], [fitted]).item(), rel=1e-6)
        assert values[1].item() == pytest.approx(0, abs=1e-6)
    assert to_image(torch.full((3, 8, 8), 0.999)).getextrema() == ((255, 255),) * 3
    wide = fit(to_tensor(photo).float(), 24, 40)
    assert torch.equal(wide, to_tensor(photo.resize((40, 24), Image.Resampling.LANCZOS)).float())


def test_metrics_draw_no_random_numbers(weights: Path) -> None:
    before = torch.get_rng_state()
    LPIPS(weights / "vgg.safetensors", heads=weights / "heads.pth").compare(PICTURES, PICTURES)
    SIFID(weights / "inception.safetensors").compare(PICTURES, PICTURES)
    assert torch.equal(torch.get_rng_state(), before)


# What cannot be measured

GOOD = torch.zeros(3, 32, 32)
REFUSED: dict[str, tuple[Any, str]] = {
    "no picture": ([], "{}: expected at least one picture, got none"),
    "an empty batch": (torch.zeros(0, 3, 32, 32), "{}: expected at least one picture, got none"),
    "one image": (random_picture(), "{}: expected PIL images or tensors, got Image; put it into a list"),
    "a path": ("mug.png", "{}: expected PIL images or tensors, got str; open it with PIL.Image.open"),
    "paths": ([GOOD, "mug.png"], r"{}\[1\]: expected a PIL image or a tensor, got str; open it with PIL.Image.open"),
    "an array": ([np.zeros((32, 32, 3))], r"{}\[0\]: expected .*, got ndarray; convert it with Image.fromarray"),
    "arrays": (np.zeros((1, 32, 32, 3)), "{}: expected .*, got ndarray; convert it with Image.fromarray"),
    "bytes": (
        [GOOD, torch.zeros(3, 32, 32, dtype=torch.uint8)],
        r"{}\[1\]: expected floats in \[0, 1\], got torch.uint8; ",
    ),
    "channels last": ([torch.zeros(32, 32, 3)], r"\(3, height, width\) .* got \(32, 32, 3\); channels come before"),
    "one channel": (torch.zeros(1, 1, 32, 32), r"got \(1, 1, 32, 32\); .* a picture without colour is repeated"),
    "no channels": ([torch.zeros(32, 32)], r"got \(32, 32\)"),
    "minus one": (
        [GOOD - 1],
        r"{}\[0\]: expected values in \[0, 1\], got \[-1, -1\]; turn \[-1, 1\] into \[0, 1\] with",
    ),
    "255": ([GOOD, GOOD + 255], r"{}\[1\]: expected values in \[0, 1\], got \[255, 255\]; .* x / 255"),
    "NaN": ([torch.full((3, 32, 32), float("nan"))], r"{}\[0\]: expected finite values, got NaN or infinity"),
    "tiny": ([torch.zeros(3, 7, 32)], r"{}\[0\]: expected at least \d+ pixels a side, got 32 x 7"),
    "a tiny image": (
        [Image.new("RGB", (7, 32))],
        r"{}\[0\]: the given image: expected at least 8 pixels a side, got 7",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("name", [*FIDELITY, "clip_t"])
def test_what_is_no_picture_is_refused(name: str, what: str, metrics: dict[str, Any]) -> None:
    refused, message = REFUSED[what]
    if name == "clip_t":
        with pytest.raises(MetricError, match=message.replace("{}", "pictures")):
            metrics[name].score(refused, ["a mug"])
        return
    with pytest.raises(MetricError, match=message.replace("{}", "pictures")):
        metrics[name].compare(refused, [GOOD])
    with pytest.raises(MetricError, match=message.replace("{}", "references")):
        metrics[name].compare([GOOD], refused)


@pytest.mark.parametrize(("name", "side"), [("lpips_vgg", 16), ("sifid_64", 9), ("sifid_192", 23)])
def test_the_smallest_pictures(name: str, side: int, metrics: dict[str, Any]) -> None:
    metric, reference = metrics[name], [random_picture((100, 100))]
    assert torch.isfinite(metric.compare([random_picture((side, side))], reference)).all()
    with pytest.raises(
        MetricError, match=rf"pictures\[0\]: expected at least {side} pixels a side, got 100 x {side - 1}"
    ):
        metric.compare([random_picture((100, side - 1))], reference)


@pytest.mark.parametrize("name", DISTANCES)
def test_a_picture_of_one_colour_can_be_measured(name: str, metrics: dict[str, Any]) -> None:
    flat = [Image.new("RGB", (64, 64)), Image.new("RGB", (64, 64), "white")]
    values = metrics[name].compare([*flat, random_picture((64, 64))], flat[:1])
    assert torch.isfinite(values).all()
    assert values[0] == pytest.approx(0, abs=1e-9)
    assert (values[1:] > 0).all()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a mug", "a cup"], "texts: expected one for each of 1 pictures, got 2"),
        ([], "texts: expected one for each of 1 pictures, got 0"),
        ("a mug", "texts: expected a list with a text for each picture, got 'a mug'"),
        ([" "], r"texts: expected a list with a text for each picture, got \[' '\]"),
        ([None], r"texts: expected a list with a text for each picture, got \[None\]"),
    ],
)
def test_texts_that_do_not_fit(texts: Any, message: str, metrics: dict[str, Any]) -> None:
    with pytest.raises(MetricError, match=message):
        metrics["clip_t"].score([GOOD], texts)


def test_words_that_clip_does_not_read_are_counted(metrics: dict[str, Any]) -> None:
    tokenizer = metrics["clip_t"].clip.tokenizer
    text = "a mug " * 60
    excess = len(tokenizer(text)["input_ids"]) - 77
    with pytest.warns(
        SupremeInitWarning, match=f"CLIP reads 77 tokens of a text: {excess} tokens of 1 of 2 texts are cut"
    ):
        values = metrics["clip_t"].score([GOOD, GOOD], [text, "a mug"])
    assert torch.isfinite(values).all()


# Weights


def test_every_form_of_the_same_weights(weights: Path, metrics: dict[str, Any], tmp_path: Path) -> None:
    whole = {
        **inception_weights(),
        "fc.weight": torch.zeros(2, 2),
        "Conv2d_1a_3x3.bn.num_batches_tracked": torch.tensor(3),
    }
    torch.save(whole, tmp_path / "new.pth")
    torch.save(whole, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    expected = metrics["sifid_192"].compare(PICTURES, [REFERENCE_PICTURE])
    for name in ("new.pth", "old.pth"):
        assert torch.equal(SIFID(str(tmp_path / name)).compare(PICTURES, [REFERENCE_PICTURE]), expected)
    torch.save(vgg_weights(), tmp_path / "vgg.pth")
    safetensors.torch.save_file(head_weights(), tmp_path / "heads.safetensors")
    same = LPIPS(tmp_path / "vgg.pth", heads=tmp_path / "heads.safetensors")
    expected = metrics["lpips_vgg"].compare(PICTURES, [REFERENCE_PICTURE])
    assert torch.equal(same.compare(PICTURES, [REFERENCE_PICTURE]), expected)


def without(key: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in inception_weights().items() if name != key}


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "another model": (
        lambda path: torch.save(head_weights(), path),
        r"expected tensors like 'Conv2d_1a_3x3.conv.weight', got 'lin0.*; 25 of 25 are missing: use http",
    ),
    "part of it": (
        lambda path: torch.save(without("Conv2d_4a_3x3.bn.bias"), path),
        r"expected tensors like 'Conv2d_4a_3x3.bn.bias', .*; 1 of 25 are missing: use http",
    ),
    "another shape": (
        lambda path: torch.save({**inception_weights(), "Conv2d_3b_1x1.conv.weight": torch.zeros(80, 64)}, path),
        r"expected 'Conv2d_3b_1x1.conv.weight' of shape \(80, 64, 1, 1\), got \(80, 64\); use http",
    ),
    "no tensor": (
        lambda path: torch.save({**inception_weights(), "Conv2d_3b_1x1.bn.bias": 1.0}, path),
        r"expected 'Conv2d_3b_1x1.bn.bias' of shape \(80,\), got float; use http",
    ),
    "whole numbers": (
        lambda path: torch.save(
            {**inception_weights(), "Conv2d_3b_1x1.bn.bias": torch.ones(80, dtype=torch.int8)}, path
        ),
        "expected finite floats in 'Conv2d_3b_1x1.bn.bias', got others; use http",
    ),
    "NaN": (
        lambda path: torch.save({**inception_weights(), "Conv2d_3b_1x1.bn.bias": torch.full((80,), torch.nan)}, path),
        "expected finite floats in 'Conv2d_3b_1x1.bn.bias', got others; use http",
    ),
    "a list": (lambda path: torch.save([torch.zeros(1)], path), "expected a state dict, got list; save a state_dict"),
    "a model": (
        lambda path: torch.save(torch.nn.Conv2d(1, 1, 1), path),
        r"expected a state dict \(.pth, .safetensors\), got a damaged file or a whole pickled model",
    ),
    "nothing": (lambda path: path.touch(), ".* got a damaged file or a whole pickled model"),
    "a web page": (lambda path: path.write_text("<html>"), ".* got a damaged file or a whole pickled model"),
}


@pytest.mark.parametrize("what", WRONG)
def test_weights_that_are_not_those(what: str, tmp_path: Path) -> None:
    write, message = WRONG[what]
    write(tmp_path / "weights.pth")
    with pytest.raises(MetricError, match=f"SIFID weights '.*weights.pth': {message}"):
        SIFID(tmp_path / "weights.pth")


def test_weights_that_are_cut_off_or_absent(weights: Path, tmp_path: Path) -> None:
    data = (weights / "inception.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(MetricError, match="SIFID weights '.*half.safetensors': .* got a damaged file"):
        SIFID(tmp_path / "half.safetensors")
    with pytest.raises(MetricError, match="LPIPS weights: expected a file, got '.*nowhere.pth', which does not exist"):
        LPIPS(tmp_path / "nowhere.pth", heads=weights / "heads.pth")
    with pytest.raises(
        MetricError, match=r"LPIPS heads '.*': expected tensors like 'lin0.model.1.weight', .*lpips_models"
    ):
        LPIPS(weights / "vgg.safetensors", heads=weights / "inception.safetensors")


def test_layers_that_sifid_does_not_have() -> None:
    with pytest.raises(
        MetricError, match=r"layer: expected 192 \(as in the paper\) or 64 \(as in its code\), got 2048"
    ):
        SIFID(layer=2048)


def test_heads_without_torchmetrics(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        MetricError, match="LPIPS heads: expected the package torchmetrics, .* --no-deps torchmetrics, or"
    ):
        LPIPS(weights / "vgg.safetensors")


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of weights whose name ends in its hash, published for SIFID at a file:// address; an empty cache."""
    torch.save(inception_weights(), tmp_path / "inception.pth")
    digest = sha256((tmp_path / "inception.pth").read_bytes()).hexdigest()
    path = (tmp_path / "inception.pth").rename(tmp_path / f"inception-{digest[:8]}.pth")
    monkeypatch.setattr("diffusers_supreme_init.metrics.sifid.WEIGHTS_URL", path.as_uri())
    monkeypatch.setattr("diffusers_supreme_init.metrics.weights.is_offline_mode", lambda: False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    return path


def test_published_weights_are_downloaded_once(published: Path, metrics: dict[str, Any]) -> None:
    expected = metrics["sifid_192"].compare(PICTURES, [REFERENCE_PICTURE])
    assert torch.equal(SIFID().compare(PICTURES, [REFERENCE_PICTURE]), expected)
    published.unlink()
    assert torch.equal(SIFID().compare(PICTURES, [REFERENCE_PICTURE]), expected)


def test_downloads_that_fail(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache" / "hub" / "checkpoints"
    published.write_bytes(published.read_bytes() + b"more")
    with pytest.raises(
        MetricError, match=r"SIFID weights: expected to download file:.*RuntimeError .*hash.* pass weights="
    ):
        SIFID()
    published.unlink()
    with pytest.raises(
        MetricError, match=r"SIFID weights: expected to download file:.*URLError .* pass weights='path"
    ):
        SIFID()
    assert not list(cache.iterdir())
    monkeypatch.setattr("diffusers_supreme_init.metrics.weights.is_offline_mode", lambda: True)
    with pytest.raises(
        MetricError, match="SIFID weights: expected '.*', got no such file, and HF_HUB_OFFLINE forbids"
    ):
        SIFID()


def test_models_that_do_not_fit(weights: Path, tmp_path: Path) -> None:
    vit = str(build_vit(tmp_path / "vit"))
    with pytest.raises(
        MetricError, match="DINOv2 model: expected the type dinov2 or .*, got '.*vit' of the type vit; choose"
    ):
        DINOv2Similarity(vit)
    with pytest.raises(
        MetricError, match="CLIP model: expected the type clip, got '.*dinov2' of the type dinov2; choose"
    ):
        CLIPTextSimilarity(str(weights / "dinov2"))
    with pytest.raises(
        MetricError, match="CLIP model: expected a folder with a model or an id .*nowhere', which does not"
    ):
        CLIPImageSimilarity(str(tmp_path / "nowhere"))
    with pytest.raises(MetricError, match="got 'nobody/nothing', which cannot be loaded"):
        DINOv2Similarity("nobody/nothing")
    folder = build_dinov2(tmp_path / "part")
    part = safetensors.torch.load_file(folder / "model.safetensors")
    part.pop("layernorm.weight")
    safetensors.torch.save_file(part, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        MetricError, match="expected all weights, got none for 1 tensors like 'layernorm.weight'; get the"
    ):
        DINOv2Similarity(str(folder))


def test_clip_is_loaded_once_for_both_metrics(weights: Path) -> None:
    clip = CLIPEmbedder(str(weights / "clip"))
    assert CLIPImageSimilarity(clip).clip is clip is CLIPTextSimilarity(clip).clip
    assert not any(weight.requires_grad for weight in clip.model.parameters())
    assert not clip.model.training


@pytest.mark.long
def test_measuring_imports_neither_torchvision_nor_torchmetrics(weights: Path) -> None:
    code = f"""
import sys
from pathlib import Path
import torch
from diffusers_supreme_init.metrics import LPIPS, SIFID, CLIPImageSimilarity, DINOv2Similarity
folder, pictures = Path({str(weights)!r}), torch.rand(1, 3, 32, 32)
heads = None if {importlib.util.find_spec("torchmetrics") is not None} else folder / "heads.pth"
for metric in (
    LPIPS(folder / "vgg.safetensors", heads=heads),
    SIFID(folder / "inception.safetensors"),
    CLIPImageSimilarity(str(folder / "clip")),
    DINOv2Similarity(str(folder / "dinov2")),
):
    metric.compare(pictures, pictures)
heavy = [name for name in sys.modules if name.split(".")[0] in ("torchvision", "torchmetrics", "lpips")]
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
