"""Cards: whatever a concept is called, they say it, and their snippets stay Python."""

import ast
import re
from typing import Any

import pytest
import torch
import yaml

from diffusers_supreme_init.errors import PublishError
from diffusers_supreme_init.formats.embedding_file import LearnedEmbedding
from diffusers_supreme_init.formats.library import library_entry
from diffusers_supreme_init.sharing.card_editing import SNIPPET_MARK, front_matter, with_license, with_repository
from diffusers_supreme_init.sharing.model_card import library_card, render_model_card

TOKENS = ["<mug>", '"quoted"', "`ticked`", "a`b", "a``b|c", "back\\slash", "{{ jinja }}", "caf\u00e9", "it's"]
CARD = "---\nlicense: mit\n# mine\ntags:\n- a   # b\nbase_model: 'x/y'\n---\n# Hello\n"


def embedding(token: str = "<mug>", **fields: Any) -> LearnedEmbedding:
    return LearnedEmbedding(placeholder_token=token, rows=torch.zeros(2, 4), **fields)


def snippets(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


@pytest.mark.parametrize("token", TOKENS)
def test_any_token_can_be_told(token: str) -> None:
    concept = embedding(token, description="a | b\n# c *d*", base_model="user/base", initializer_tokens=("|", "`"))
    single = render_model_card(concept, sample_prompts=[f"a {token}"])
    library = library_card({"mug": library_entry(concept, ["learned_embeds.safetensors"])})
    for card in (single, library):
        assert yaml.safe_load(card.split("---\n")[1])["base_model"] == "user/base"
        for block in snippets(card):
            texts = [node.value for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Constant)]
            assert f"a photo of {token} on the beach" in texts
        for row in re.findall(r"^\|.*$", card, re.MULTILINE):
            columns = 4 if card is library else 2
            assert len(re.findall(r"(?<!\\)\|", row)) == columns + 1, row
        assert "\n# c" not in card
    assert yaml.safe_load(single.split("---\n")[1])["widget"][0]["text"] == f"a {token}"


def test_facts_that_are_unknown_are_left_out() -> None:
    card = render_model_card(embedding())
    assert "None" not in card
    assert "validation" not in card
    training = {"validation_loss": {"0": float("nan"), "5": 0.5, "7": None}, "steps": 7}
    card = render_model_card(embedding(training=training))
    assert "| 5 | 0.50000 |" in card
    assert "nan" not in card
    assert "on the training pictures, for the same noises" in card
    training = {"initializer": {"method": "caption", "candidates": [{"text": "a|b", "source": "c", "loss": None}]}}
    assert "| a\\|b | c | not measured |" in render_model_card(embedding(training=training))


def test_a_revision_is_no_part_of_the_id() -> None:
    concept = embedding(base_model="user/base@v2")
    for card in (
        render_model_card(concept),
        library_card({"mug": library_entry(concept, ["learned_embeds.safetensors"])}),
    ):
        assert front_matter(card)["base_model"] == "user/base"
        assert all('from_pretrained("user/base", revision="v2")' in block for block in snippets(card))


def test_only_snippets_that_say_so_load_from_the_repository() -> None:
    mine = 'pipe.load_textual_inversion("sd-concepts-library/cat-toy")'
    card = render_model_card(embedding()) + f"\n```python\n{mine}\n```\n"
    made = with_repository(card, "user/mug", "")
    assert made.count(f'_inversion("user/mug")  {SNIPPET_MARK}') == 2
    assert mine in made
    inside = with_repository(made, "user/toys", "mug")
    assert inside.count(f'_inversion("user/toys", subfolder="mug")  {SNIPPET_MARK}') == 2
    assert with_repository(inside, "user/mug", "") == made
    entries = {"cat": library_entry(embedding(), ["learned_embeds.safetensors"])}
    assert f'_inversion("user/toys")  {SNIPPET_MARK}' in with_repository(library_card(entries), "user/toys")


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (CARD, CARD.replace("license: mit\n", "").replace("---\n", "---\nlicense: other\nlicense_name: it\n", 1)),
        (CARD.replace("\n", "\r\n"), None),
        ("# Hello\n", "---\nlicense: other\nlicense_name: it\n---\n# Hello\n"),
        ("---\nlicense:\n- mit\n- apache-2.0\na: 1\n---\n", "---\nlicense: other\nlicense_name: it\na: 1\n---\n"),
        ("---\n---\nHello", "---\nlicense: other\nlicense_name: it\n---\nHello"),
    ],
)
def test_a_licence_is_exchanged_and_nothing_else(card: str, expected: str | None) -> None:
    fields = {"license": "other", "license_name": "it"}
    made = with_license(card, fields)
    if expected is None:
        assert made.count("\r\n") == made.count("\n") == card.count("\n") + 1
        made, card, expected = (text.replace("\r\n", "\n") for text in (made, card, with_license(CARD, fields)))
    assert made == expected
    assert with_license(made, fields) == made
    assert {"license": "other", "license_name": "it"}.items() <= front_matter(made).items()


def test_a_licence_that_cannot_be_exchanged_is_told() -> None:
    with pytest.raises(PublishError, match="cannot write into README.md; write .* yourself"):
        with_license("---\n{license: mit, tags: [a]}\n---\n", {"license": "apache-2.0"})
