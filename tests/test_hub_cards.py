"""What the Hub of `hub.server` thinks of model cards."""

import pytest
from hub.cards import check_card, tags_of

CARD = "---\nlicense: mit\nlibrary_name: diffusers\ntags: [textual_inversion]\nbase_model: maker/model\n---\n# A mug\n"


@pytest.mark.parametrize(
    ("front_matter", "message"),
    [
        ("tags: [a", "expected ',' or ']'"),
        ("base_model: /home/user/model", '"base_model" with value "/home/user/model" is not valid'),
        ("base_model: ./model", '"base_model" with value "./model" is not valid'),
        ("base_model: [maker/model, a/b/c]", '"base_model" with value "a/b/c" is not valid'),
        ("license: my-own", '"license" must be one of'),
        ("tags: a", '"tags" must be an array'),
        ("tags: [1]", '"tags[0]" must be a string'),
        ("library_name: [a]", '"library_name" must be a string'),
        ("model-index: [{name: a, results: [{dataset: {type: a}}]}]", "dataset.name"),
        ("just text", "must be a mapping"),
    ],
)
def test_cards_that_the_hub_refuses(front_matter: str, message: str) -> None:
    assert message in "\n".join(check_card(f"---\n{front_matter}\n---\n").errors)


def test_cards_that_the_hub_takes() -> None:
    assert check_card(CARD).errors == check_card("---\nlicense: other\nbase_model: gpt2\n---\n").errors == []
    assert check_card("# No metadata").warnings == ["empty or missing yaml metadata in repo card"]


def test_tags_come_from_several_fields_once() -> None:
    data = {"tags": ["diffusers", "a"], "library_name": "diffusers", "license": "mit", "base_model": ["x/y", "x/z"]}
    assert tags_of(data) == ["diffusers", "a", "base_model:x/y", "base_model:x/z", "license:mit"]
