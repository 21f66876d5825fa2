"""The tiny pipelines that other tests build on: they run, repeat themselves, and listen to every text encoder."""

import numpy as np
import pytest
import torch
from tiny_audio_families import FAMILIES as AUDIO_FAMILIES
from tiny_families import Family, RecordIds, run, text_encoders
from tiny_image_families import FAMILIES as IMAGE_FAMILIES
from tiny_more_families import FAMILIES as MORE_FAMILIES
from tiny_prior_families import FAMILIES as PRIOR_FAMILIES
from tiny_video_families import FAMILIES as VIDEO_FAMILIES

FAMILIES = [*IMAGE_FAMILIES, *PRIOR_FAMILIES, *VIDEO_FAMILIES, *AUDIO_FAMILIES, *MORE_FAMILIES]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_runs_repeats_itself_and_reads_the_prompt(family: Family) -> None:
    pipe = family.build()
    assert type(pipe) is family.pipeline_class
    with RecordIds(pipe) as recorded:
        made = run(family, pipe, "a red mug")
    assert np.isfinite(made).all()
    assert np.array_equal(run(family, family.build(), "a red mug"), made)
    assert abs(run(family, pipe, "a dog in the park") - made).max() > 1e-3
    assert {name for name, ids in recorded.ids.items() if not ids} == family.idle_encoders


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_text_encoder_matters(family: Family) -> None:
    expected = run(family, family.build(), "a red mug")
    for name in text_encoders(family.build()).keys() - family.idle_encoders:
        pipe = family.build()
        with torch.no_grad():
            for weight in getattr(pipe, name).parameters():
                weight.mul_(1.1)
        assert abs(run(family, pipe, "a red mug") - expected).max() > 1e-5, name
