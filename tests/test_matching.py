"""Which text encoder gets which rows, what the others read instead, and what is told about it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from tiny.every_family import FAMILY, concept_for, pair_of, rows_for
from tiny.families import RecordIds, run
from tiny.text import clip_text_encoder

from diffusers_supreme_init import ConceptLoadError, PlaceholderTokenError, SupremeInitWarning, write_embedding
from diffusers_supreme_init.text.encoder_identity import EncoderIdentity
from diffusers_supreme_init.text.text_pairs import find_text_pairs


def sd_concept(folder: Path, **changes: Any) -> Path:
    """Save what the trainer saves on Stable Diffusion 1.5, whose encoder is the CLIP-L of many other pipelines."""
    pair = find_text_pairs(FAMILY["stable_diffusion"].build())[0]
    write_embedding(folder / "learned_embeds.safetensors", concept_for(pair, **changes))
    return folder


def texts_read(pipe: Any, name: str, prompt: str) -> str:
    """Return what a text encoder reads, decoded."""
    tokenizer = pair_of(pipe, name).tokenizer
    return tokenizer.decode(tokenizer(prompt).input_ids, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("name", "described"),
    [
        ("stable_diffusion_xl", ["text_encoder_2"]),
        ("stable_diffusion_3", ["text_encoder_2", "text_encoder_3"]),
        ("flux", ["text_encoder_2"]),
        ("hidream", ["text_encoder_2", "text_encoder_3", "text_encoder_4"]),
        ("hunyuan_video", ["text_encoder"]),
    ],
)
def test_rows_of_clip_l_serve_every_pipeline_with_clip_l(name: str, described: list[str], tmp_path: Path) -> None:
    family = FAMILY[name]
    pipe = family.build()
    before = run(family, pipe, "a photo of a mug")
    (report,) = pipe.load_multitoken_inversion(sd_concept(tmp_path))
    (served,) = report.loaded
    assert type(pair_of(pipe, served).encoder).__name__.startswith("CLIPText")
    assert sorted(report.described) == described
    assert not report.missing
    assert not report.unused
    with RecordIds(pipe) as record:
        assert not np.array_equal(run(family, pipe, "a photo of <mug>"), before)
    assert pair_of(pipe, served).row_ids("<mug>")[0] in record.ids[served][0].flatten().tolist()
    for other in described:
        tokenizer = pair_of(pipe, other).tokenizer
        plain = tokenizer("x a photo of a skull and bones mug", add_special_tokens=False).input_ids
        assert tokenizer("x a photo of a <mug>", add_special_tokens=False).input_ids == plain


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("a photo of <mug>", "a photo of a skull and bones mug"),
        ("a photo of a <mug>", "a photo of a skull and bones mug"),
        ("the <MUG> next to my cracked <mug>", "the skull and bones mug next to my cracked skull and bones mug"),
        ("<mug>s", "a skull and bones mugs"),
    ],
)
def test_descriptions_meet_the_articles_of_prompts(prompt: str, read: str, tmp_path: Path) -> None:
    pipe = FAMILY["flux"].build()
    pipe.load_multitoken_inversion(sd_concept(tmp_path))
    tokenizer = pipe.tokenizer_2
    assert tokenizer._expand(prompt) == read
    assert tokenizer._expand(read) == read


def test_descriptions_can_be_switched_off_changed_and_taken_back(
    tmp_path: Path, unchanged: Callable[[Any], None]
) -> None:
    pipe = FAMILY["flux"].build()
    unchanged(pipe)
    letters = texts_read(pipe, "text_encoder_2", "a <mug>")
    (report,) = pipe.load_multitoken_inversion(sd_concept(tmp_path), description=False)
    assert report.missing == {"text_encoder_2": "the source has no rows for it"}
    assert texts_read(pipe, "text_encoder_2", "a <mug>") == letters
    (report,) = pipe.load_multitoken_inversion(tmp_path)
    assert report.described == {"text_encoder_2": "a skull and bones mug"}
    assert "skull" in pipe.tokenizer_2._expand("a <mug>")
    pipe.load_multitoken_inversion(tmp_path, description="an old cup")
    assert pipe.tokenizer_2._expand("a <mug>") == "an old cup"
    pipe.load_multitoken_inversion(tmp_path, description=False)
    assert texts_read(pipe, "text_encoder_2", "a <mug>") == letters
    pipe.load_multitoken_inversion(tmp_path)
    pipe.unload_multitoken_inversion("<Mug>")


def test_a_description_is_kept_when_the_pipeline_is_saved(tmp_path: Path) -> None:
    family = FAMILY["flux"]
    pipe = family.build()
    pipe.load_multitoken_inversion(sd_concept(tmp_path / "mug"))
    pipe.save_pretrained(tmp_path / "pipe")
    again = family.pipeline_class.from_pretrained(tmp_path / "pipe")
    assert again.tokenizer_2._expand("a <mug>") == "a skull and bones mug"
    again.unload_multitoken_inversion()
    assert again.tokenizer_2("a <mug>").input_ids == family.build().tokenizer_2("a <mug>").input_ids


def test_an_encoder_that_reads_a_description_can_get_rows_later(tmp_path: Path) -> None:
    family = FAMILY["flux"]
    pipe = family.build()
    pipe.load_multitoken_inversion(sd_concept(tmp_path))
    t5 = pair_of(pipe, "text_encoder_2")
    rows = rows_for(t5, 5)
    (report,) = pipe.load_multitoken_inversion({"<mug>": rows})
    assert report.loaded == ("text_encoder_2",)
    assert not report.missing
    assert torch.equal(t5.rows("<mug>"), rows)
    assert len(pair_of(pipe, "text_encoder").rows("<mug>")) == 3


def test_missing_encoders_are_warned_about_unless_that_is_wanted() -> None:
    pipe = FAMILY["stable_diffusion_xl"].build()
    rows = rows_for(pair_of(pipe, "text_encoder"))
    with pytest.warns(
        SupremeInitWarning, match="<mug>: text_encoder_2 will read it as letters, since there are neither"
    ):
        (report,) = pipe.load_multitoken_inversion({"<mug>": rows})
    assert "text_encoder_2 does not know it" in str(report)
    pipe.load_multitoken_inversion({"<mug>": rows}, description=False)  # a warning would be an error here


def test_a_description_that_holds_a_trigger_is_refused(tmp_path: Path, unchanged: Callable[[Any], None]) -> None:
    pipe = FAMILY["flux"].build()
    unchanged(pipe)
    folder = sd_concept(tmp_path, token="my-mug", description="a photo of My-Mug in the park")
    with pytest.raises(
        ConceptLoadError, match=r"my-mug: the description of my-mug holds this word .* rename the concept"
    ):
        pipe.load_multitoken_inversion(folder)


def test_a_trigger_that_stands_in_a_loaded_description_is_refused(tmp_path: Path) -> None:
    pipe = FAMILY["flux"].build()
    pipe.load_multitoken_inversion(sd_concept(tmp_path, description="a mug of zmg"))
    rows = rows_for(pair_of(pipe, "text_encoder_2"))
    with pytest.raises(ConceptLoadError, match="zmg: the description of <mug> holds this word"):
        pipe.load_multitoken_inversion({"zmg": rows}, description=False)
    pipe.load_multitoken_inversion({"zmgs": rows}, description=False)


def test_two_triggers_that_meet_expand_once_and_for_all(tmp_path: Path) -> None:
    pipe = FAMILY["flux"].build()
    pipe.load_multitoken_inversion(sd_concept(tmp_path / "a", token="<b>", description="mug"))
    pipe.load_multitoken_inversion(sd_concept(tmp_path / "b", token="zq-mug", description="a red cup"))
    expand = pipe.tokenizer_2._expand
    for text in ("zq-<b>", "the zq-<b><b>", "zq-mug<b> zq-<b>"):
        assert expand(expand(text)) == expand(text)
    assert expand("zq-<b>") == "a red cup"


def test_the_same_encoder_twice_gets_the_rows_twice(tmp_path: Path) -> None:
    family = FAMILY["cascade"]
    pipe = family.build()
    pipe.text_encoder = clip_text_encoder(pipe.prior_text_encoder.config.hidden_size, projection=True, seed=5)
    pair = pair_of(pipe, "prior_text_encoder")
    file = write_embedding(tmp_path / "mug.safetensors", concept_for(pair))
    (report,) = pipe.load_multitoken_inversion(file)
    assert sorted(report.loaded) == ["prior_text_encoder", "text_encoder"]
    (report,) = pipe.load_multitoken_inversion({"<cat>": rows_for(pair)})  # foreign: one width, one identity
    assert sorted(report.loaded) == ["prior_text_encoder", "text_encoder"]


def test_foreign_rows_need_one_width_or_a_choice(unchanged: Callable[[Any], None]) -> None:
    pipe = FAMILY["stable_diffusion_xl"].build()
    pipe.text_encoder_2 = clip_text_encoder(pipe.text_encoder.config.hidden_size, projection=True, seed=5)
    rows = rows_for(pair_of(pipe, "text_encoder"))
    unchanged(pipe)
    with pytest.raises(
        ConceptLoadError, match="got text_encoder, text_encoder_2; choose one with text_encoder='text_"
    ):
        pipe.load_multitoken_inversion({"<mug>": rows})
    with pytest.raises(
        ConceptLoadError, match="text_encoder: expected one of text_encoder, text_encoder_2, got 'clip'"
    ):
        pipe.load_multitoken_inversion({"<mug>": rows}, text_encoder="clip")
    (report,) = pipe.load_multitoken_inversion({"<mug>": rows}, text_encoder="text_encoder_2", description="a mug")
    assert report.loaded == ("text_encoder_2",)
    pipe.unload_multitoken_inversion()


def test_what_serves_no_encoder_is_told(tmp_path: Path) -> None:
    sdxl = FAMILY["stable_diffusion_xl"].build()
    for name, file in (("text_encoder", "learned_embeds"), ("text_encoder_2", "learned_embeds_2")):
        write_embedding(tmp_path / f"{file}.safetensors", concept_for(pair_of(sdxl, name)))
    (report,) = sdxl.load_multitoken_inversion(tmp_path)
    assert report.loaded == ("text_encoder", "text_encoder_2")
    (report,) = FAMILY["stable_diffusion"].build().load_multitoken_inversion(tmp_path)
    assert report.loaded == ("text_encoder",)
    assert list(report.unused) == ["part 2"]
    assert "CLIPTextModelWithProjection of width" in report.unused["part 2"]
    assert "part 2 is not used: it is for CLIPTextModelWithProjection" in str(report)


def test_class_width_and_vocabulary_all_have_to_match(tmp_path: Path, unchanged: Callable[[Any], None]) -> None:
    pipe = FAMILY["flux"].build()
    own = concept_for(pair_of(pipe, "text_encoder"))
    unchanged(pipe)
    assert own.encoder is not None
    for changes in ({"class_name": "T5EncoderModel"}, {"vocabulary": "0" * 64}):
        other = replace(own, encoder=replace(own.encoder, **changes))
        file = write_embedding(tmp_path / "mug.safetensors", other)
        with pytest.raises(
            ConceptLoadError, match="with the vocabulary it was trained with(, not another)?, got text_encoder"
        ):
            pipe.load_multitoken_inversion(file)


@pytest.mark.parametrize(
    ("one", "other", "serves"),
    [
        ("CLIPTextModel", "CLIPTextModelWithProjection", True),
        ("Qwen3Model", "Qwen3ForCausalLM", True),
        ("Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLTextModel", True),
        ("T5EncoderModel", "UMT5EncoderModel", False),
        ("Gemma2Model", "Gemma3ForConditionalGeneration", False),
    ],
)
def test_heads_do_not_matter_to_input_rows(one: str, other: str, serves: bool) -> None:
    assert EncoderIdentity(one, 8, "v").serves(EncoderIdentity(other, 8, "v")) is serves


def test_a_clip_l_clip_g_file_fills_both_encoders_of_sdxl(tmp_path: Path) -> None:
    pipe = FAMILY["stable_diffusion_xl"].build()
    rows = {
        "clip_l": rows_for(pair_of(pipe, "text_encoder"), 4),
        "clip_g": rows_for(pair_of(pipe, "text_encoder_2"), 4),
    }
    safetensors.torch.save_file(rows, tmp_path / "mug.safetensors")
    (report,) = pipe.load_multitoken_inversion(tmp_path / "mug.safetensors", token="<mug>")
    assert report.loaded == ("text_encoder", "text_encoder_2")
    assert torch.equal(pair_of(pipe, "text_encoder").rows("<mug>"), rows["clip_l"])
    assert torch.equal(pair_of(pipe, "text_encoder_2").rows("<mug>"), rows["clip_g"])


def test_the_number_of_a_foreign_file_says_which_encoder_it_is_for(tmp_path: Path) -> None:
    pipe = FAMILY["stable_diffusion_xl"].build()
    pipe.text_encoder_2 = clip_text_encoder(pipe.text_encoder.config.hidden_size, projection=True, seed=5)
    rows = rows_for(pair_of(pipe, "text_encoder"))
    safetensors.torch.save_file({"<mug>": rows}, tmp_path / "learned_embeds_2.safetensors")
    (report,) = pipe.load_multitoken_inversion(
        tmp_path, weight_name="learned_embeds_2.safetensors", description="a mug"
    )
    assert report.loaded == ("text_encoder_2",)


def test_encoders_that_share_one_tokenizer_object_need_rows_for_all(unchanged: Callable[[Any], None]) -> None:
    pipe = FAMILY["stable_diffusion_xl"].build()
    pipe.tokenizer_2 = pipe.tokenizer
    unchanged(pipe)
    with pytest.raises(ConceptLoadError, match="text_encoder and text_encoder_2 share one tokenizer object"):
        pipe.load_multitoken_inversion({"<mug>": rows_for(pair_of(pipe, "text_encoder"))})


def test_encoders_that_share_one_tokenizer_object_get_rows_together(
    tmp_path: Path, unchanged: Callable[[Any], None]
) -> None:
    pipe = FAMILY["stable_diffusion_xl"].build()
    pipe.tokenizer_2 = pipe.tokenizer
    unchanged(pipe)
    for name, file in (("text_encoder", "learned_embeds"), ("text_encoder_2", "learned_embeds_2")):
        write_embedding(tmp_path / f"{file}.safetensors", concept_for(pair_of(pipe, name)))
    pipe.load_multitoken_inversion(tmp_path)
    for name in ("text_encoder", "text_encoder_2"):
        assert torch.equal(pair_of(pipe, name).rows("<mug>"), rows_for(pair_of(pipe, name)))
    pipe.unload_multitoken_inversion()


def test_two_parts_for_one_encoder_are_refused(tmp_path: Path) -> None:
    pipe = FAMILY["stable_diffusion"].build()
    for file in ("learned_embeds", "learned_embeds_2"):
        write_embedding(tmp_path / f"{file}.safetensors", concept_for(pair_of(pipe, "text_encoder")))
    with pytest.raises(ConceptLoadError, match="expected one part for text_encoder, got two; load one file"):
        pipe.load_multitoken_inversion(tmp_path)


def test_one_description_for_several_sources_is_refused() -> None:
    pipe = FAMILY["stable_diffusion"].build()
    rows = rows_for(pair_of(pipe, "text_encoder"))
    with pytest.raises(ConceptLoadError, match="description: expected True or False for 2 concepts, got one text"):
        pipe.load_multitoken_inversion([{"<a>": rows}, {"<b>": rows}], description="a mug")


def test_cleaning_of_captions_is_warned_about_and_the_advice_helps(tmp_path: Path) -> None:
    family = FAMILY["pixart_sigma"]
    pipe = family.build()
    pair = pair_of(pipe, "text_encoder")
    file = write_embedding(tmp_path / "mug.safetensors", concept_for(pair))
    with pytest.warns(
        SupremeInitWarning, match="PixArtSigmaPipeline changes or removes it when .* with token='%mug%'"
    ):
        pipe.load_multitoken_inversion(file)
    pipe.load_multitoken_inversion(file, token="%mug%")
    reached = {}
    for token in ("<mug>", "%mug%"):
        with RecordIds(pipe) as record:
            run(family, pipe, f"a photo of {token} on the beach", clean_caption=True)
        reached[token] = pair.row_ids(token)[0] in record.ids["text_encoder"][0].flatten().tolist()
    assert reached == {"<mug>": False, "%mug%": True}


def test_prx_cleans_prompts_in_its_own_way() -> None:
    pipe = FAMILY["prx"].build()
    rows = rows_for(pair_of(pipe, "text_encoder"))
    pipe.load_multitoken_inversion({"<mug>": rows})  # survives: a warning would be an error here
    with pytest.warns(SupremeInitWarning, match="skip_text_cleaning=True, or load the concept with token='<mug>'"):
        pipe.load_multitoken_inversion({"[mug]": rows})


def test_pipelines_that_rewrite_prompts_are_warned_about() -> None:
    pipe = FAMILY["longcat_image"].build()
    rows = rows_for(pair_of(pipe, "text_encoder"))
    with pytest.warns(
        SupremeInitWarning, match="a language model rewrite prompts, which may lose it; call it with enable"
    ):
        pipe.load_multitoken_inversion({"<mug>": rows})
    pipe = FAMILY["ernie_image"].build()  # without its prompt enhancer
    pipe.load_multitoken_inversion({"<mug>": rows_for(pair_of(pipe, "text_encoder"))})


def test_rows_of_a_planner_change_what_it_plans() -> None:
    family = FAMILY["glm_image"]
    pipe = family.build()
    rows = {"<mug>": rows_for(pair_of(pipe, "vision_language_encoder"))}
    before = run(family, pipe, "a <mug>")  # not in quotation marks: ByT5 reads nothing
    pipe.load_multitoken_inversion(rows, text_encoder="vision_language_encoder", description=False)
    assert not np.array_equal(run(family, pipe, "a <mug>"), before)


def test_an_encoder_without_input_embeddings_is_no_encoder() -> None:
    pipe = FAMILY["stable_diffusion"].build()
    pipe.text_encoder = None
    with pytest.raises(
        ConceptLoadError, match="expected a pipeline with a text encoder and its tokenizer, got Stable"
    ):
        pipe.load_multitoken_inversion({"<mug>": torch.ones(1, 8)})


def test_identity_is_computed_once_per_encoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from diffusers_supreme_init.loading import matching

    calls = []
    identify = matching.identify_encoder
    monkeypatch.setattr(matching, "identify_encoder", lambda pair: calls.append(pair) or identify(pair))
    pipe = FAMILY["stable_diffusion"].build()
    files = [
        sd_concept(tmp_path / f"{number}", token=f"<c{number}>") / "learned_embeds.safetensors" for number in range(5)
    ]
    pipe.load_multitoken_inversion(files)
    assert len(calls) == 1


def test_a_choice_of_encoder_does_not_overrule_what_a_file_was_trained_for(tmp_path: Path) -> None:
    pipe = FAMILY["flux"].build()
    other = replace(concept_for(pair_of(pipe, "text_encoder")), encoder=EncoderIdentity("BertModel", 32, "0" * 64))
    file = write_embedding(tmp_path / "mug.safetensors", other)
    with pytest.raises(ConceptLoadError, match="expected BertModel of width 32"):
        pipe.load_multitoken_inversion(file, text_encoder="text_encoder")


@pytest.mark.parametrize("token", ["‹İstanbul>", "a\x00b", "\ud800"])
def test_names_that_no_prompt_can_hold_are_refused(token: str, unchanged: Callable[[Any], None]) -> None:
    pipe = FAMILY["stable_diffusion"].build()
    unchanged(pipe)
    with pytest.raises(PlaceholderTokenError, match="placeholder_token: expected a name"):
        pipe.load_multitoken_inversion({"<mug>": rows_for(pair_of(pipe, "text_encoder"))}, token=token)


def test_a_word_that_stock_loaded_says_how_to_get_rid_of_it() -> None:
    pipe = FAMILY["stable_diffusion"].build()
    rows = rows_for(pair_of(pipe, "text_encoder"), 1)
    pipe.load_textual_inversion({"<mug>": rows})
    with pytest.raises(
        PlaceholderTokenError, match=r"call unload_textual_inversion\('<mug>'\) first, or choose .*<mug-2>"
    ):
        pipe.load_multitoken_inversion({"<mug>": rows})


def test_row_names_that_are_nobodys_are_said_and_are_no_cut_concepts() -> None:
    pipe = FAMILY["qwen_image"].build()
    pipe.load_multitoken_inversion({"<mug>": rows_for(pair_of(pipe, "text_encoder"))})
    with pytest.warns(SupremeInitWarning) as told:
        pipe.tokenizer("a photo <x|1> mug", truncation=True, max_length=64)
    (one,) = told
    assert "'<x|1>' in the prompt is not a loaded concept" in str(one.message)
