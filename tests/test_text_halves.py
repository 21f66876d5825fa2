"""The loader on the text half of every pipeline class that no family builds whole, and of modular ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from inventory.modular_halves import ModularHalf, modular_halves
from inventory.text_halves import TextHalf, are_equal, text_halves
from tiny.every_family import load_everywhere
from tiny.families import RecordIds

from diffusers_supreme_init.text.text_pairs import find_text_pairs

HALVES = [*text_halves(), *modular_halves()]
PLAIN = "a photo of a red mug on the beach, <- mug ->"
WITH_CONCEPT = 'a <mug>, "<mug>"'  # glyph encoders (GLM-Image) read only what is in quotes


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*(it when it cleans prompts|rewrite prompts)")  # they do not clean them here
@pytest.mark.parametrize("half", HALVES, ids=lambda half: half.pipeline_class.__name__)
def test_a_concept_in_every_encoder(
    half: TextHalf | ModularHalf, tmp_path: Path, unchanged: Callable[[Any], None]
) -> None:
    pipe = half.build()
    before = half.encode(pipe, PLAIN)
    assert before
    unchanged(pipe)
    expected = load_everywhere(pipe, tmp_path)
    assert expected
    assert are_equal(half.encode(pipe, PLAIN), before)
    with RecordIds(pipe) as record:
        with_concept = half.encode(pipe, WITH_CONCEPT)
    assert all(tensor.isfinite().all() for tensor in with_concept)
    assert not are_equal(with_concept, before)
    for pair in find_text_pairs(pipe):
        assert torch.equal(pair.rows("<mug>"), expected[pair.encoder_name])
        ids = pair.row_ids("<mug>")
        assert record.reached(pair.encoder_name, ids)
    pipe.unload_multitoken_inversion("<mug>")
    assert are_equal(half.encode(pipe, PLAIN), before)
