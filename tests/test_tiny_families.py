"""The tiny pipelines that other tests build on: they run, repeat themselves, and listen to every text encoder."""

import numpy as np
import pytest
import torch
from tiny.every_family import FAMILIES
from tiny.families import Family, RecordIds, input_embedding, run, text_encoders

pytestmark = pytest.mark.long

# In quotes, because a glyph encoder is given nothing else.
A_MUG, A_DOG = 'a red mug with "a hat" on it', 'a dog in the park with "text" in its fur'


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_runs_repeats_itself_and_reads_the_prompt(family: Family) -> None:
    pipe = family.build()
    assert type(pipe) is family.pipeline_class
    with RecordIds(pipe) as recorded:
        made = run(family, pipe, A_MUG)
    assert np.isfinite(made).all()
    assert np.array_equal(run(family, family.build(), A_MUG), made)
    assert abs(run(family, pipe, A_DOG) - made).max() > 1e-4
    assert {name for name, ids in recorded.ids.items() if not ids} == family.idle_encoders


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_text_encoder_matters(family: Family) -> None:
    pipe = family.build()
    expected = run(family, pipe, A_MUG)
    encoders = {name: part for name, part in text_encoders(pipe).items() if name not in family.idle_encoders}
    for name, encoder in encoders.items():
        weight = input_embedding(encoder).weight
        before = weight.detach().clone()
        with torch.no_grad():
            weight.mul_(-1)
            changed = run(family, pipe, A_MUG)
            weight.copy_(before)
        assert abs(changed - expected).max() > 1e-5, name
    assert np.array_equal(run(family, pipe, A_MUG), expected)
    widths = [input_embedding(encoder).weight.shape[1] for encoder in encoders.values()]
    assert len(set(widths)) == len(widths)  # rows of one fit no other
