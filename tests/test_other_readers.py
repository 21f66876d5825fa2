"""Concepts where a prompt is not read by a pipeline's own call: compel's weights, modular pipelines."""

from typing import Any

import numpy as np
import pytest
import torch
from compel import CompelForSD, CompelForSDXL, DiffusersTextualInversionManager
from diffusers import StableDiffusionXLAutoBlocks
from tiny.every_family import FAMILY, rows_for
from tiny.families import RecordIds

from diffusers_supreme_init.text.text_pairs import find_text_pairs


def loaded(name: str) -> Any:
    pipe = FAMILY[name].build()
    for pair in find_text_pairs(pipe):
        rows = rows_for(pair, 12)
        pipe.load_multitoken_inversion({"<mug>": rows}, text_encoder=pair.encoder_name, description=False)
    return pipe


@pytest.mark.parametrize("with_manager", [False, True])
@pytest.mark.parametrize(
    "prompt", ["a (<mug>)1.5 on a beach", "<mug>++ and a dog--", '("a <mug>", "a dog").blend(1, 1)']
)
def test_compel_on_stable_diffusion(prompt: str, with_manager: bool) -> None:
    pipe = loaded("stable_diffusion")
    manager = DiffusersTextualInversionManager(pipe) if with_manager else None
    compel = CompelForSD(pipe, textual_inversion_manager=manager)
    with RecordIds(pipe) as record:
        weighted = compel(prompt)
    wanted = find_text_pairs(pipe)[0].row_ids("<mug>")
    assert record.reached("text_encoder", wanted)
    assert not torch.equal(weighted.embeds, compel(prompt.replace("<mug>", "mug")).embeds)


@pytest.mark.parametrize("with_manager", [False, True])
def test_compel_on_both_tokenizers_of_sdxl(with_manager: bool) -> None:
    pipe = loaded("stable_diffusion_xl")
    manager = DiffusersTextualInversionManager(pipe) if with_manager else None
    with RecordIds(pipe) as record:
        conditioning = CompelForSDXL(pipe, textual_inversion_manager=manager)("a (<mug>)1.3 and a dog")
    for pair in find_text_pairs(pipe):
        assert record.reached(pair.encoder_name, pair.row_ids("<mug>"))
    assert torch.isfinite(conditioning.embeds).all()


@pytest.mark.parametrize(("num_rows", "num_rows_2"), [(3, 1), (1, 3), (2, 3)])
def test_compel_weights_a_concept_of_other_lengths_in_both_text_encoders(num_rows: int, num_rows_2: int) -> None:
    pipe = FAMILY["stable_diffusion_xl"].build()
    pairs = find_text_pairs(pipe)
    for pair, num in zip(pairs, (num_rows, num_rows_2), strict=True):
        pipe.load_multitoken_inversion(
            {"<mug>": rows_for(pair, num)}, text_encoder=pair.encoder_name, description=False
        )
    options = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    with torch.no_grad():
        plain = pipe.encode_prompt("photo of <mug> and a dog", **options)[0]
        weighted = CompelForSDXL(pipe)("photo of (<mug>)1.3 and a dog").embeds
    width = pairs[0].hidden_size
    for part, num in ((slice(width), num_rows), (slice(width, None), num_rows_2)):
        changed = (weighted[0, :, part] - plain[0, :, part]).abs().amax(dim=1) > 1e-4
        assert changed.nonzero().flatten().tolist() == list(range(3, 3 + num))  # after the start, "photo" and "of"


@pytest.mark.parametrize(
    ("description", "prompt", "difference"),
    [
        ("a red mug", "photo of <mug>", 0),
        ("a red mug", "a photo of a <mug>", 1),
        ("a red mug", "the <mug>", 1),
        ("red mug boats", "a photo of a <mug>", 0),
    ],
)
def test_a_description_reads_one_token_fewer_after_an_article(description: str, prompt: str, difference: int) -> None:
    pipe = FAMILY["stable_diffusion_xl"].build()
    first = find_text_pairs(pipe)[0]
    num_rows = len(pipe.tokenizer_2(description, add_special_tokens=False).input_ids)
    pipe.load_multitoken_inversion(
        {"<mug>": rows_for(first, num_rows)}, text_encoder=first.encoder_name, description=description
    )
    counts = [len(tokenizer(prompt).input_ids) for tokenizer in (pipe.tokenizer, pipe.tokenizer_2)]
    words = prompt.replace("<mug>", "")
    others = [len(tokenizer(words).input_ids) for tokenizer in (pipe.tokenizer, pipe.tokenizer_2)]
    assert (counts[0] - others[0]) - (counts[1] - others[1]) == difference


def test_modular_pipelines() -> None:
    source = FAMILY["stable_diffusion_xl"].build()
    pipe = StableDiffusionXLAutoBlocks().init_pipeline()
    pipe.update_components(**{name: part for name, part in source.components.items() if part is not None})
    pipe.set_progress_bar_config(disable=True)

    def draw(prompt: str) -> np.ndarray:
        generator = torch.Generator().manual_seed(0)
        size = {"height": 16, "width": 16, "num_inference_steps": 1}
        return np.asarray(pipe(prompt=prompt, generator=generator, output="images", output_type="np", **size))

    before = draw("a red mug")
    for pair in find_text_pairs(pipe):
        pipe.load_multitoken_inversion({"<mug>": rows_for(pair, 4)}, text_encoder=pair.encoder_name, description=False)
    assert np.array_equal(draw("a red mug"), before)
    with RecordIds(pipe) as record:
        assert not np.array_equal(draw("a <mug>"), before)
    for pair in find_text_pairs(pipe):
        assert record.reached(pair.encoder_name, pair.row_ids("<mug>"))
    pipe.unload_multitoken_inversion()
    assert np.array_equal(draw("a red mug"), before)
