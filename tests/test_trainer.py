"""Invariants of training: what starts equal, what moves, what stays, and what is left behind."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_same, draw, random_picture, snapshot_of
from diffusers import StableDiffusionImg2ImgPipeline

from diffusers_supreme_init import (
    Concept,
    ConceptLoadError,
    SupremeInitConfig,
    SupremeInitTextualInversionTrainer,
    read_embedding,
)
from diffusers_supreme_init.text.text_pairs import find_text_pairs

CAPTION = "a red mug with white stripes"


def make_trainer(pipe: Any, *, token: str = "<mug>", initializer: Any = CAPTION, **options: Any) -> Any:
    settings = {"max_train_steps": 3, "validation_samples": 4} | options
    return SupremeInitTextualInversionTrainer(
        pipe,
        images=random_picture(),
        placeholder_token=token,
        initializer=initializer,
        config=SupremeInitConfig(**settings),
    )


def hidden_states(pipe: Any, prompt: str) -> torch.Tensor:
    with torch.no_grad():
        return pipe.encode_prompt(prompt, "cpu", 1, False)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_step_zero_equals_the_caption_to_the_last_bit(pipe: Any, dtype: torch.dtype) -> None:
    pipe.to(dtype)
    literal = hidden_states(pipe, f"a photo of {CAPTION}")
    make_trainer(pipe, max_train_steps=0).train()
    assert torch.equal(hidden_states(pipe, "a photo of <mug>"), literal)


def test_rows_are_the_tokens_of_the_caption(pipe: Any) -> None:
    (result,) = make_trainer(pipe, max_train_steps=0).train()
    ids = pipe.tokenizer(CAPTION, add_special_tokens=False).input_ids
    assert list(result.initializer["text_encoder"].token_ids) == ids
    assert torch.equal(result.rows["text_encoder"], pipe.text_encoder.get_input_embeddings().weight[ids].detach())


def test_every_chosen_row_moves_and_nothing_else_does(pipe: Any) -> None:
    before = snapshot_of(pipe)
    num_rows = len(pipe.text_encoder.get_input_embeddings().weight)
    (result,) = make_trainer(pipe).train()
    assert (result.rows["text_encoder"] != result.initial_rows["text_encoder"]).any(dim=1).all()
    after = snapshot_of(pipe)
    for name in ("unet", "vae", "unet.requires_grad", "vae.requires_grad", "text_encoder.requires_grad"):
        assert_same(before[name], after[name], name)
    for name in ("unet.training", "vae.training", "text_encoder.training", "text_encoder.modules"):
        assert_same(before[name], after[name], name)
    grown = {
        name for name, weight in before["text_encoder"].items() if weight.shape != after["text_encoder"][name].shape
    }
    assert len(grown) == 1
    (matrix,) = grown
    assert torch.equal(after["text_encoder"].pop(matrix)[:num_rows], before["text_encoder"].pop(matrix))
    assert_same(before["text_encoder"], after["text_encoder"])


def test_pipeline_is_the_same_object_and_other_prompts_draw_the_same(pipe: Any) -> None:
    parts = dict(pipe.components)
    before = draw(pipe, "a photo of a red mug")
    make_trainer(pipe).train()
    assert all(part is parts[name] for name, part in pipe.components.items())
    assert np.array_equal(draw(pipe, "a photo of a red mug"), before)
    pipe.unload_multitoken_inversion("<mug>")


def test_unloading_after_training_restores_everything(pipe: Any, unchanged: Callable[[Any], None]) -> None:
    unchanged(pipe)
    make_trainer(pipe).train()
    pipe.unload_multitoken_inversion("<mug>")


def test_trained_equals_saved_equals_loaded(pipe: Any, other_pipe: Any, tmp_path: Path) -> None:
    trainer = make_trainer(pipe)
    (result,) = trainer.train()
    (file,) = trainer.save(tmp_path)
    assert torch.equal(read_embedding(file).rows, result.rows["text_encoder"])
    stock = copy.deepcopy(other_pipe)
    other_pipe.load_multitoken_inversion(file)
    stock.load_textual_inversion(str(tmp_path))
    expected = draw(pipe, "a photo of <mug> on the beach")
    assert np.array_equal(draw(other_pipe, "a photo of <mug> on the beach"), expected)
    assert np.array_equal(draw(stock, "a photo of <mug> on the beach"), expected)


def test_saved_folder_tells_the_run(pipe: Any, tmp_path: Path) -> None:
    trainer = make_trainer(pipe, output_dir=str(tmp_path / "secret place"), seed=7)
    trainer.train()
    trainer.save(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "learned_embeds.safetensors",
        "training.json",
    ]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| 1 | `red</w>` |" in card
    assert "| seed | 7 |" in card
    saved = read_embedding(tmp_path / "out" / "learned_embeds.safetensors")
    assert saved.description == CAPTION
    assert saved.training["settings"]["seed"] == 7
    for path in (tmp_path / "out").iterdir():
        assert b"secret place" not in path.read_bytes()
        assert str(tmp_path).encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("name_or_path", "base_model"),
    [
        ("user/model", "user/model"),
        ("/home/user/model", None),
        (Path("/home/user/model"), None),
        ("model", None),
        (None, None),
    ],
)
def test_only_hub_ids_are_written_as_base_model(
    pipe: Any, tmp_path: Path, name_or_path: Any, base_model: str | None
) -> None:
    pipe.register_to_config(_name_or_path=name_or_path)
    trainer = make_trainer(pipe, max_train_steps=0)
    trainer.train()
    (file,) = trainer.save(tmp_path)
    assert read_embedding(file).base_model == base_model
    assert ("base_model" in (tmp_path / "README.md").read_text()) == (base_model is not None)


def test_equal_runs_give_equal_bytes(pipe: Any, other_pipe: Any, tmp_path: Path) -> None:
    for name, one in (("a", pipe), ("b", other_pipe)):
        torch.manual_seed(hash(name))  # the global generator must not matter
        trainer = make_trainer(one)
        trainer.train()
        trainer.save(tmp_path / name)
    a, b = (tmp_path / name / "learned_embeds.safetensors" for name in "ab")
    assert a.read_bytes() == b.read_bytes()


def test_training_leaves_the_global_random_state_alone(pipe: Any) -> None:
    before = torch.random.get_rng_state()
    make_trainer(pipe).train()
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("draws", ["antithetic", "independent"])
def test_the_loss_is_equation_one(pipe: Any, draws: str) -> None:
    """The step's loss, computed again straight from the paper with the pipeline's own parts."""
    from diffusers_supreme_init.pictures import fit_to_square, to_pixel_values
    from diffusers_supreme_init.randomness import choose, generator_for

    (result,) = make_trainer(pipe, max_train_steps=1, train_batch_size=2, draws=draws).train()
    pixels = to_pixel_values(fit_to_square(random_picture(), 32, center_crop=True))
    expected = 0.0
    for sign, index in [(1, 0), (-1, 0)] if draws == "antithetic" else [(1, 0), (1, 1)]:

        def draw_from(purpose: str, index: int = index) -> torch.Generator:
            return generator_for(0, "<mug>", 0, index, purpose)

        mirrored = bool(torch.rand((), generator=draw_from("flip")) < 0.5)
        with torch.no_grad():
            posterior = pipe.vae.encode((pixels.flip(-1) if mirrored else pixels)[None]).latent_dist
            eps = torch.randn(posterior.mean.shape[1:], generator=draw_from("latents"))
            latents = (posterior.mean + posterior.std * eps) * pipe.vae.config.scaling_factor
            noise = sign * torch.randn(latents.shape[1:], generator=draw_from("noise"))[None]
            purpose = "timesteps" if draws == "antithetic" else "timestep"
            timestep = int(1000 * torch.rand((), generator=draw_from(purpose), dtype=torch.float64))
            alpha = pipe.scheduler.alphas_cumprod[timestep]
            noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
            prompt = choose(result.prompts, draw_from("template")).replace("<mug>", CAPTION)
            prediction = pipe.unet(noisy, timestep, hidden_states(pipe, prompt)).sample
        expected += float(((prediction - noise) ** 2).mean()) / 2
    assert result.losses[0] == pytest.approx(expected, rel=1e-5)


def test_several_concepts_equal_each_alone(pipe: Any) -> None:
    pipe.to(torch.float64)
    settings = {"max_train_steps": 20, "train_batch_size": 2, "validation_samples": 0}
    concepts = [
        Concept(images=random_picture(seed=1), placeholder_token="<a>", initializer=CAPTION),
        Concept(images=[random_picture(seed=2), random_picture(seed=3)], placeholder_token="<b>", initializer="*"),
        Concept(images=random_picture(seed=4), placeholder_token="<c>", initializer="an orange umbrella"),
    ]
    together = SupremeInitTextualInversionTrainer(
        copy.deepcopy(pipe), concepts=concepts, config=SupremeInitConfig(**settings)
    ).train()
    for concept, result in zip(concepts, together, strict=True):
        (alone,) = SupremeInitTextualInversionTrainer(
            copy.deepcopy(pipe), concepts=[concept], config=SupremeInitConfig(**settings)
        ).train()
        assert result.rows["text_encoder"].dtype == torch.float64
        torch.testing.assert_close(result.rows["text_encoder"], alone.rows["text_encoder"], rtol=0, atol=1e-8)
        assert (result.rows["text_encoder"] - result.initial_rows["text_encoder"]).abs().max() > 1e-3


def test_concepts_of_one_random_key_see_the_same_draws(pipe: Any, other_pipe: Any) -> None:
    picture = random_picture()

    def train(pipe: Any, **keys: str | None) -> Any:
        concepts = [
            Concept(images=picture, placeholder_token=f"<{name}>", initializer=CAPTION, random_key=key)
            for name, key in keys.items()
        ]
        config = SupremeInitConfig(max_train_steps=3, validation_samples=0)
        return SupremeInitTextualInversionTrainer(pipe.to(torch.float64), concepts=concepts, config=config).train()

    first, paired = train(pipe, a=None, b="<a>")
    torch.testing.assert_close(first.rows["text_encoder"], paired.rows["text_encoder"], rtol=0, atol=1e-9)
    first, other = train(other_pipe, a=None, b=None)
    assert (first.rows["text_encoder"] - other.rows["text_encoder"]).abs().max() > 1e-4


def test_passes_and_forward_batches_do_not_change_the_rows(pipe: Any) -> None:
    pipe.to(torch.float64)
    splits = [
        {"train_batch_size": 4},
        {"train_batch_size": 2, "gradient_accumulation_steps": 2},
        {"train_batch_size": 4, "max_forward_batch_size": 3},
    ]
    results = [
        make_trainer(copy.deepcopy(pipe), max_train_steps=5, validation_samples=0, **split)
        .train()[0]
        .rows["text_encoder"]
        for split in splits
    ]
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=1e-10)


def test_several_concepts_are_saved_to_a_folder_each(pipe: Any, other_pipe: Any, tmp_path: Path) -> None:
    concepts = [
        Concept(images=random_picture(), placeholder_token=token, initializer="a mug")
        for token in ("<a>", "[a]", "<b>")
    ]
    trainer = SupremeInitTextualInversionTrainer(
        pipe, concepts=concepts, config=SupremeInitConfig(max_train_steps=1, validation_samples=0)
    )
    trainer.train()
    files = trainer.save(tmp_path)
    assert len({file.parent for file in files}) == 3
    other_pipe.load_multitoken_inversion(files)
    prompt = "<a> and [a] and <b>"
    assert torch.equal(hidden_states(other_pipe, prompt), hidden_states(pipe, prompt))


def test_continuing_from_a_saved_embedding(pipe: Any, other_pipe: Any, tmp_path: Path) -> None:
    trainer = make_trainer(pipe)
    (first,) = trainer.train()
    trainer.save(tmp_path)
    for initializer in (tmp_path, str(tmp_path / "learned_embeds.safetensors")):
        (second,) = make_trainer(copy.deepcopy(other_pipe), initializer=initializer, max_train_steps=0).train()
        assert torch.equal(second.rows["text_encoder"], first.rows["text_encoder"])
        assert second.description == CAPTION
        assert second.prompts == first.prompts


def test_a_concept_loaded_before_stays_exact(pipe: Any) -> None:
    pipe.load_multitoken_inversion({"<cat>": torch.full((2, 32), 0.1)})
    before = hidden_states(pipe, "a <cat>")
    make_trainer(pipe).train()
    assert torch.equal(hidden_states(pipe, "a <cat>"), before)
    pipe.unload_multitoken_inversion("<cat>")
    assert "<mug|0>" in pipe.tokenizer.tokenize("a <mug>")


def test_loading_while_training_is_refused(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers_supreme_init.training import loop

    refused = []

    def load_in_between(self: Any, step: int) -> Any:
        with pytest.raises(ConceptLoadError, match="its embeddings are being trained"):
            pipe.load_multitoken_inversion({"<cat>": torch.zeros(1, 32)})
        with pytest.raises(ConceptLoadError, match="its embeddings are being trained"):
            pipe.unload_multitoken_inversion("<mug>")
        refused.append(step)
        return original(self, step)

    original = loop.TrainingLoop.train_step
    monkeypatch.setattr(loop.TrainingLoop, "train_step", load_in_between)
    make_trainer(pipe).train()
    assert refused == [0, 1, 2]


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_an_interrupted_training_leaves_the_pipeline_as_it_was(
    pipe: Any, monkeypatch: pytest.MonkeyPatch, unchanged: Callable[[Any], None], error: BaseException
) -> None:
    from diffusers_supreme_init.training import loop

    original = loop.TrainingLoop.train_step

    def fail_at_two(self: Any, step: int) -> Any:
        if step == 2:
            raise error
        return original(self, step)

    unchanged(pipe)
    monkeypatch.setattr(loop.TrainingLoop, "train_step", fail_at_two)
    trainer = make_trainer(pipe, gradient_checkpointing=True)
    with pytest.raises(type(error)):
        trainer.train()


def test_image_to_image_pipelines_can_be_trained_on(pipe: Any) -> None:
    parts = {name: part for name, part in pipe.components.items() if name != "image_encoder"}
    other = StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    (result,) = make_trainer(other).train()
    assert (result.rows["text_encoder"] != result.initial_rows["text_encoder"]).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_pipelines_keep_float32_rows(pipe: Any, dtype: torch.dtype) -> None:
    pipe.to(dtype=dtype)
    before = snapshot_of(pipe)["vae"]
    (result,) = make_trainer(pipe, learning_rate=1e-5).train()
    assert result.rows["text_encoder"].dtype == torch.float32
    # Steps far below the spacing of half-precision numbers still add up.
    assert (result.rows["text_encoder"] != result.initial_rows["text_encoder"]).any(dim=1).all()
    assert (result.rows["text_encoder"] - result.initial_rows["text_encoder"]).abs().max() < 1e-4
    assert_same(before, snapshot_of(pipe)["vae"])
    assert all(np.isfinite(result.losses))


@pytest.mark.parametrize("mixed_precision", ["fp16", "bf16"])
def test_autocast_is_close_to_full_precision(pipe: Any, other_pipe: Any, mixed_precision: str) -> None:
    (full,) = make_trainer(pipe).train()
    (half,) = make_trainer(other_pipe, mixed_precision=mixed_precision).train()
    assert full.losses != half.losses
    assert half.losses == pytest.approx(full.losses, rel=0.05)
    assert half.rows["text_encoder"].dtype == torch.float32


def test_rows_in_the_matrix_are_restored_when_adding_failed_before_the_loop(
    pipe: Any, unchanged: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    unchanged(pipe)

    def no_memory(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("diffusers_supreme_init.trainer.TrainableRows", no_memory)
    with pytest.raises(MemoryError):
        make_trainer(pipe).train()
    assert not find_text_pairs(pipe)[0].tokenizer.init_kwargs.get("multitoken")
