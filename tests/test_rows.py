"""Rows as the only parameters of an encoder: what is looked up, what gradient arrives, and what is left behind."""

from typing import Any

import pytest
import torch
from conftest import build_tiny_pipeline, random_picture
from peft import TrainableTokensConfig
from peft.tuners.trainable_tokens import TrainableTokensModel
from tiny.every_family import FAMILY
from torch import Tensor, nn

from diffusers_supreme_init import SupremeInitConfig, SupremeInitTextualInversionTrainer
from diffusers_supreme_init.backbones import backbone_for
from diffusers_supreme_init.text.vocabulary import ConceptVocabulary
from diffusers_supreme_init.training.rows import TrainableRows

FAMILIES = ("stable_diffusion", "stable_diffusion_xl", "pixart_sigma", "sana")
"""CLIP, two CLIPs, T5 and Gemma."""


def random_rows(pair: Any, number: int, seed: int) -> Tensor:
    return torch.randn(number, pair.hidden_size, generator=torch.Generator().manual_seed(seed))


def load(pipe: Any, **number_of: int) -> list[Any]:
    """Add concepts of random rows; return the text encoders that would be trained."""
    pairs = list(backbone_for(pipe).trained)
    for pair in pairs:
        pair.encoder.eval()
        added = {f"<{name}>": random_rows(pair, number, number) for name, number in number_of.items()}
        ConceptVocabulary(pair).add(added)
    return pairs


@pytest.fixture(params=FAMILIES)
def pipe(request: Any) -> Any:
    return FAMILY[request.param].build()


def test_rows_and_gradients_are_those_of_peft(pipe: Any) -> None:
    """With a hole between the concepts, and a token that occurs twice."""
    pairs = load(pipe, mug=3, gone=2, cat=2)
    for pair in pairs:
        ConceptVocabulary(pair).remove(["<gone>"])
        ids = [*pair.row_ids("<mug>"), *pair.row_ids("<cat>")]
        assert ids[3] - ids[2] > 1
        sentence = torch.tensor([[1, *ids, 2, ids[0], 3], [4, 5, 6, 7, 8, 9, 10, ids[-1], 1]])
        new_rows = {"<mug>": random_rows(pair, 3, 7), "<cat>": random_rows(pair, 2, 8)}
        weights = torch.randn(
            pair.encoder(sentence).last_hidden_state.shape, generator=torch.Generator().manual_seed(9)
        )

        rows = TrainableRows([pair], {token: {pair.encoder_name: one} for token, one in new_rows.items()})
        found = pair.encoder(sentence).last_hidden_state
        (found * weights).sum().backward()
        gradient = rows.take_gradients()[pair.encoder_name]
        rows.detach()

        tuner = TrainableTokensModel(pair.encoder, TrainableTokensConfig(token_indices=ids), "default")
        wrapped: Any = pair.embedding
        delta = wrapped.trainable_tokens_delta["default"] = nn.Parameter(torch.cat(list(new_rows.values())))
        expected = pair.encoder(sentence).last_hidden_state
        (expected * weights).sum().backward()
        tuner.unload()

        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(gradient, delta.grad, rtol=1e-4, atol=1e-5)
        assert gradient.any(dim=1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_what_is_looked_up_has_the_dtype_of_the_encoder(dtype: torch.dtype) -> None:
    pipe = build_tiny_pipeline()
    (pair,) = load(pipe, mug=2)
    pair.encoder.to(dtype)
    rows = TrainableRows([pair], {"<mug>": {pair.encoder_name: random_rows(pair, 2, 7)}})
    try:
        found = pair.embedding(torch.tensor([pair.row_ids("<mug>")]))
        found.sum().backward()
        assert found.dtype == dtype
        assert rows.take_gradients()[pair.encoder_name].dtype == torch.float32
    finally:
        rows.detach()


def test_nothing_is_left_behind(pipe: Any) -> None:
    pairs = load(pipe, mug=2)
    before = [(pair.embedding, dict(pair.embedding._forward_hooks), pair.embedding.weight) for pair in pairs]
    ids = torch.tensor([[1, *pairs[0].row_ids("<mug>"), 2]])
    found = pairs[0].encoder(ids).last_hidden_state
    rows = TrainableRows(pairs, {"<mug>": {pair.encoder_name: random_rows(pair, 2, 7) for pair in pairs}})
    assert not torch.equal(pairs[0].encoder(ids).last_hidden_state, found)
    rows.detach()
    assert torch.equal(pairs[0].encoder(ids).last_hidden_state, found)
    for pair, (embedding, hooks, weight) in zip(pairs, before, strict=True):
        assert pair.embedding is embedding
        assert pair.embedding.weight is weight
        assert dict(embedding._forward_hooks) == hooks


@pytest.mark.long
@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_a_text_encoder_that_is_compiled_trains_as_it_is(how: str) -> None:
    """Also one that has drawn before: its compiled code must not go on without the rows."""

    def train(pipe: Any) -> Tensor:
        config = SupremeInitConfig(max_train_steps=3, validation_samples=0)
        trainer = SupremeInitTextualInversionTrainer(pipe, random_picture(), "<mug>", "a red mug", config=config)
        return trainer.train()[0].rows["text_encoder"]

    eager, pipe = build_tiny_pipeline(), build_tiny_pipeline()
    if how == "wrapped":
        pipe.text_encoder = torch.compile(pipe.text_encoder, backend="aot_eager")
    else:
        pipe.text_encoder.compile(backend="aot_eager")
    pipe("a mug", num_inference_steps=1, output_type="latent")
    torch.testing.assert_close(train(pipe), train(eager), rtol=0, atol=1e-5)
