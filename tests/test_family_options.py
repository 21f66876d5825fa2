"""Options of training, on every family: several concepts, masks, precision, recomputing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_picture
from family_runs import CAPTION, each_family_in_turn, make_trainer
from PIL import Image
from tiny.families import run
from training_families import TrainingFamily

from diffusers_supreme_init import Concept, PlaceholderTokenError

pytestmark = pytest.mark.filterwarnings("ignore:.* when it cleans prompts")


@each_family_in_turn("stable_diffusion_3_without_t5", "krea2")
def test_several_concepts_learn_as_if_alone(case: TrainingFamily) -> None:
    def concept(index: int) -> Concept:
        words = ("a red mug", "a dog in the park at night")[index]
        return Concept(images=random_picture(seed=index), placeholder_token=f"<c{index}>", initializer=words)

    together = make_trainer(case.build(), concepts=[concept(0), concept(1)]).train()
    for index, result in enumerate(together):
        (alone,) = make_trainer(case.build(), concepts=[concept(index)]).train()
        for name in case.trained:
            moved = (result.rows[name] - result.initial_rows[name]).abs().max()
            torch.testing.assert_close(result.rows[name], alone.rows[name], rtol=0, atol=float(moved) * 0.05)


@each_family_in_turn("ernie_image", "pixart_alpha")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_masks_several_pictures_and_half_precision(case: TrainingFamily, dtype: torch.dtype) -> None:
    pipe = case.build().to(dtype)
    mask = Image.new("L", (40, 40), 0)
    mask.paste(255, (8, 8, 32, 32))
    concepts = [
        Concept(
            images=[random_picture(seed=1), random_picture(seed=2)],
            mask=[mask, mask],
            placeholder_token="<mug>",
            initializer=CAPTION,
        ),
        Concept(images=random_picture(seed=3), mask=mask, placeholder_token="<dog>", initializer="a dog"),
    ]
    # In fp16 the first ones only bring the loss scale down, and more of them behind a language model.
    steps = 2 if dtype == torch.bfloat16 else 16
    options = {"masked_loss": True, "validation_samples": 2, "max_train_steps": steps}
    results = make_trainer(pipe, concepts=concepts, **options).train()
    for result in results:
        assert result.status == "finished"
        for name in case.trained:
            assert result.rows[name].dtype == torch.float32
            assert torch.isfinite(result.rows[name]).all()
            assert (result.rows[name] != result.initial_rows[name]).any(dim=1).all()
    assert {parameter.dtype for parameter in pipe.vae.parameters()} == {dtype}


@each_family_in_turn("stable_diffusion_velocity", "z_image")
def test_mixed_precision_and_gradient_checkpointing(case: TrainingFamily) -> None:
    (plain,) = make_trainer(case.build()).train()
    recomputing = case.name != "hunyuan_dit"  # whose transformer cannot
    (mixed,) = make_trainer(case.build(), mixed_precision="bf16", gradient_checkpointing=recomputing).train()
    for name in case.trained:
        assert torch.isfinite(mixed.rows[name]).all()
        assert not torch.equal(mixed.rows[name], mixed.initial_rows[name])
        assert (mixed.rows[name] - plain.rows[name]).abs().max() <= 2 * (
            plain.rows[name] - plain.initial_rows[name]
        ).abs().max()


@each_family_in_turn("sana", "qwen_image")
def test_recomputed_layers_of_a_text_encoder_change_no_bit_and_drop_nothing(
    case: TrainingFamily, unchanged: Callable[[Any], None]
) -> None:
    """CLIPs are too small for it to be worth anything; Kolors' ChatGLM and HunyuanDiT's transformer cannot."""
    if case.name == "hunyuan_dit":
        pytest.skip("its settings are refused: `test_settings_that_a_family_lacks_are_refused`")
    pipe, passes = case.build(), []
    for part in pipe.text_encoder.modules():
        if isinstance(getattr(part, "attention_dropout", None), float):
            part.attention_dropout = 0.5
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.5
    run(case.family, pipe, "a dog")
    unchanged(pipe)
    linear = [part for part in pipe.text_encoder.modules() if isinstance(part, torch.nn.Linear)]
    hooks = [part.register_forward_pre_hook(lambda module, given: passes.append(module)) for part in linear]
    rows, num_passes = [], []
    for recomputing in (False, True):
        passes.clear()
        (result,) = make_trainer(pipe, max_train_steps=1, gradient_checkpointing=recomputing).train()
        pipe.unload_multitoken_inversion("<mug>")
        rows.append(result.rows["text_encoder"])
        num_passes.append(len(passes))
    for hook in hooks:
        hook.remove()
    recomputes = not type(pipe.text_encoder).__name__.startswith(("CLIP", "ChatGLM"))
    assert num_passes[1] > num_passes[0] if recomputes else num_passes[1] == num_passes[0]
    assert torch.equal(*rows)


@each_family_in_turn("stable_diffusion", "qwen_image21")
def test_a_pipeline_that_holds_concepts_keeps_them(case: TrainingFamily) -> None:
    pipe = case.build()
    make_trainer(pipe, token="<first>", initializer="a dog", learning_rate=0.1).train()
    expected = run(case.family, pipe, "a photo of <first>")
    alone = case.build()
    (fresh,) = make_trainer(alone).train()
    (second,) = make_trainer(pipe).train()
    for name in case.trained:
        assert torch.equal(second.rows[name], fresh.rows[name])
    assert np.array_equal(run(case.family, pipe, "a photo of <first>"), expected)
    with pytest.raises(PlaceholderTokenError, match="already loaded"):
        make_trainer(pipe)
    pipe.unload_multitoken_inversion("<first>")
    assert np.array_equal(run(case.family, pipe, "a photo of <mug>"), run(case.family, alone, "a photo of <mug>"))
