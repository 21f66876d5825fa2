"""diffusers' own `load_textual_inversion` on the tiny pipelines, and a record of whether it still has a fault."""

from collections.abc import Callable
from typing import Any

from diffusers.loaders import TextualInversionLoaderMixin

from diffusers_supreme_init.text.text_pairs import TextPair, find_text_pairs

from .every_family import rows_for
from .families import Family, RecordIds, run

Note = Callable[[str, object], None]
"""What pytest's `record_property` is."""


def note_stock(record_property: Note, fault: str, shows_fault: Callable[[], bool]) -> None:
    """Note whether stock still has a fault: ``still there``, ``fixed``, or ``not shown`` if asking it failed.

    It never fails: a diffusers that mends a fault, or changes what `shows_fault` leans on, breaks none of our tests.
    """
    try:
        state = "still there" if shows_fault() else "fixed"
    except Exception as error:
        state = f"not shown ({type(error).__name__}: {str(error)[:200]})"
    record_property("stock", f"{fault}: {state}")
    print(f"stock {fault}: {state}")


def raises(kind: type[Exception], action: Callable[[], Any]) -> str | None:
    """Return the message of the error that an action raises, None if it raises none of that kind."""
    try:
        action()
    except kind as error:
        return str(error) or kind.__name__
    return None


def load_stock(pipe: Any, token: str = "<mug>", num_vectors: int = 4) -> Any:
    """Load rows into every text encoder as stock does, call by call; a pipeline without its methods is given them."""
    if not isinstance(pipe, TextualInversionLoaderMixin):
        pipe.__class__ = type(type(pipe).__name__, (TextualInversionLoaderMixin, type(pipe)), {})
    for pair in find_text_pairs(pipe):
        rows = rows_for(pair, num_vectors)
        pipe.load_textual_inversion(rows, token=token, tokenizer=pair.tokenizer, text_encoder=pair.encoder)
    return pipe


def stock_ids(pair: TextPair, token: str = "<mug>", num_vectors: int = 4) -> list[int]:
    """Return the token ids of the rows that `load_stock` loaded."""
    names = [token, *(f"{token}_{number}" for number in range(1, num_vectors))]
    return [pair.tokenizer.convert_tokens_to_ids(name) for name in names]


def read_ids(family: Family, pipe: Any, prompt: str, **options: Any) -> dict[str, list[list[int]]]:
    """Run a pipeline and return the token ids that each of its text encoders read, text by text."""
    with RecordIds(pipe) as record:
        run(family, pipe, prompt, **options)
    return {name: [row for call in calls for row in call.tolist()] for name, calls in record.ids.items()}
