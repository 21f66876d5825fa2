"""The loader on real pipelines of every family that fits here: rows, bit-identical prompts, nothing left behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny.every_family import FAMILIES, load_everywhere
from tiny.families import Family, RecordIds, run

from diffusers_supreme_init.text.text_pairs import find_text_pairs

PLAIN = "a photo of a red mug on the beach, <- mug ->"
WITH_CONCEPT = 'a <mug>, "<mug>"'  # glyph encoders (HunyuanImage) read only what is in quotes


@pytest.mark.filterwarnings("ignore:.*(it when it cleans prompts|rewrite prompts)")  # they do not clean them here
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_concept_in_every_encoder(family: Family, tmp_path: Path, unchanged: Callable[[Any], None]) -> None:
    pipe = family.build()
    before = run(family, pipe, PLAIN)
    unchanged(pipe)  # the first call leaves caches and hooks of its own
    expected = load_everywhere(pipe, tmp_path)
    assert expected
    assert np.array_equal(run(family, pipe, PLAIN), before)
    with RecordIds(pipe) as record:
        with_concept = run(family, pipe, WITH_CONCEPT)
    assert np.isfinite(with_concept).all()
    assert not np.array_equal(with_concept, before)
    for pair in find_text_pairs(pipe):
        ids = pair.row_ids("<mug>")
        assert torch.equal(pair.rows("<mug>"), expected[pair.encoder_name])
        if pair.encoder_name not in family.idle_encoders:
            assert record.reached(pair.encoder_name, ids)
    pipe.unload_multitoken_inversion("<mug>")
    assert np.array_equal(run(family, pipe, PLAIN), before)
