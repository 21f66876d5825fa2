"""The page of pipelines is what its generator makes, and what it says of every class holds."""

from typing import Any

import diffusers
import pytest
from inventory.classes import module_of, readers_of, text_taking_classes
from inventory.refusals import REASONS, refusal_of, refused_classes
from inventory.text_halves import TextHalf, text_halves
from pipeline_table import CATEGORIES, PAGE, REFUSED, TEXT, WHOLE, modular_entries, page, plain_entries
from tiny.every_family import FAMILIES
from tiny.families import Family

from diffusers_supreme_init.text.prompt_cleaning import why_lost
from diffusers_supreme_init.text.text_pairs import find_text_pairs

VERSION = "0.42.1"
needs_that_diffusers = pytest.mark.skipif(
    diffusers.__version__ != VERSION, reason=f"the page is of diffusers {VERSION}, here is {diffusers.__version__}"
)
STAND_INS = {"LlavaProcessor": "PixtralProcessor"}  # Pixtral's cannot be imported without torchvision


@needs_that_diffusers
def test_the_page_is_what_the_generator_makes() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python tests/pipeline_table.py`"


@needs_that_diffusers
def test_every_class_is_in_exactly_one_category() -> None:
    entries = [*plain_entries(), *modular_entries()]
    assert [entry.pipeline_class for entry in plain_entries()] == list(text_taking_classes())
    assert len(text_taking_classes()) == 229
    assert len({entry.pipeline_class for entry in entries}) == len(entries)
    assert {entry.category for entry in entries} <= CATEGORIES.keys()  # "unknown" is none of them


def test_enough_families_ran() -> None:
    ran = [entry.pipeline_class for entry in plain_entries() if entry.category == WHOLE]
    assert set(ran) == {family.pipeline_class for family in FAMILIES}
    assert len({module_of(one) for one in ran}) >= 25


@needs_that_diffusers
def test_classes_that_did_not_run_whole_are_text_halves_or_refused() -> None:
    halves = {half.pipeline_class for half in text_halves()}
    assert {entry.pipeline_class for entry in plain_entries() if entry.category == TEXT} == halves
    refused = {entry.pipeline_class for entry in [*plain_entries(), *modular_entries()] if entry.category == REFUSED}
    assert refused == refused_classes()
    assert {one.__name__ for one in refused} == REASONS.keys()


@pytest.mark.parametrize("pipeline_class", sorted(refused_classes(), key=str), ids=lambda one: one.__name__)
def test_refused_classes_say_why(pipeline_class: type) -> None:
    start = f"expected a pipeline with a text encoder and its tokenizer, got {pipeline_class.__name__} with "
    assert refusal_of(pipeline_class).startswith(start)


@pytest.mark.long
@pytest.mark.parametrize("one", [*FAMILIES, *text_halves()], ids=lambda one: one.pipeline_class.__name__)
def test_the_page_is_right_about_what_ran(one: Family | TextHalf) -> None:
    pipe = one.build()
    assert is_warned_of(pipe) == says_that_the_loader_warns(pipe)
    built = built_readers(pipe)
    annotated = {reader.encoder_name: reader for reader in readers_of(one.pipeline_class)}
    assert built.keys() == annotated.keys()
    for name, (encoder, tokenizers) in built.items():
        assert encoder == annotated[name].encoder
        # A processor for enhancing prompts (LTX-2) is optional; the other tokenizers are all there.
        missing = dict(annotated[name].tokenizers).items() - tokenizers.items()
        assert tokenizers.items() <= dict(annotated[name].tokenizers).items()
        assert missing <= {("processor", "Gemma3Processor(GemmaTokenizer)")}


def is_warned_of(pipe: Any) -> bool:
    return any(why_lost(pipe, token) for token in ("<mug>", "[mug]"))


def says_that_the_loader_warns(pipe: Any) -> bool:
    (notes,) = (entry.notes for entry in plain_entries() if entry.pipeline_class is type(pipe))
    is_without_rewriter = getattr(pipe, "pe", pipe) is None  # ERNIE-Image's is optional
    return bool({"cleans", "prx", "rewrites"} & set(notes)) and not is_without_rewriter


def built_readers(pipe: Any) -> dict[str, tuple[str, dict[str, str]]]:
    found = {}
    for pair in find_text_pairs(pipe):
        tokenizers = {}
        for slot in pair.slots:
            kind = type(slot.tokenizer).__name__
            if slot.processor is not None:
                processor = type(slot.processor).__name__
                kind = f"{STAND_INS.get(processor, processor)}({kind})"
            tokenizers[slot.component_name] = kind
        found[pair.encoder_name] = (type(pair.encoder).__name__, tokenizers)
    return found
