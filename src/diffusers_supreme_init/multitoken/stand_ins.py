"""Words that stand for rows while a tokenizer reads a text, so that it reads the text around them as around words.

T5's tokenizer reads whatever follows an added token as the beginning of a word: the comma of ``<mug>, red`` becomes
``▁,``, which is another token than the comma of ``mug, red``. Llama's reads the space before an added token as a token
of its own. Prompts with a concept would therefore not mean what the same prompts with its description mean.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..triggers import ROW_NAME

_WORDS = ("a", "it", "mug", "1")
"""Words of one token in most vocabularies. The first that does not merge with the letters around it is taken."""

Read = Callable[[str], Any]
"""Returns the ``tokenizers.Encoding`` of a text, with its ``ids`` and ``offsets``, without special tokens."""


@dataclass(frozen=True)
class StandIns:
    """Words that stand for the rows of a concept in a text, one word per row, with spaces between them.

    Attributes:
        start: Where the first word begins in the text.
        word: Each of the words.
        row_ids: The token ids of the rows.
    """

    start: int
    word: str
    row_ids: list[int]

    @property
    def text(self) -> str:
        """The words, as they are written in the text."""
        return " ".join([self.word] * len(self.row_ids))

    def row_at(self, start: int, end: int) -> int | None:
        """Return the token id of the row for which a token with these offsets stands, or None if it stands for none.

        Raises:
            ValueError: Only a part of the token stands for a row.
        """
        step = len(self.word) + 1
        if start == end or end <= self.start or start >= self.start + len(self.text):
            return None
        index, beyond = divmod(end - self.start + 1, step)
        # The offsets of a token may include the space before its word.
        if beyond or not index or end - start > step or start < self.start + step * (index - 1) - 1:
            raise ValueError((start, end))
        return self.row_ids[index - 1]


def with_stand_ins(
    text: str, read: Read, ids_of: Callable[[list[str]], list[int] | None]
) -> tuple[str, list[StandIns]]:
    """Replace the names of rows in a text by words; names that are part of a longer word stay as they are.

    Args:
        text: A text with names of rows, ``"a photo of <mug|0><mug|1>, red"``.
        read: How the tokenizer reads a text.
        ids_of: Returns the token ids of rows, or None if the tokenizer does not know all of them.

    Returns:
        The text, ``"a photo of a a, red"``, and the words in it.
    """
    done, position, found = "", 0, []
    for match in re.finditer(f"(?:{ROW_NAME})+", text):
        done += text[position : match.start()]
        position = match.end()
        row_ids = ids_of(re.findall(ROW_NAME, match[0]))
        choices = [StandIns(len(done), word, row_ids) for word in _WORDS] if row_ids else []
        chosen = next((one for one in choices if _are_apart(one, read(done + one.text + text[position:]))), None)
        found += [chosen] if chosen else []
        done += chosen.text if chosen else match[0]
    return done + text[position:], found


def rows_at(offsets: Sequence[tuple[int, int]], found: Iterable[StandIns]) -> Iterator[tuple[int, int]]:
    """Yield the place of each token that stands for a row, and the id of that row."""
    for stand_ins in found:
        for place, (start, end) in enumerate(offsets):
            if (row_id := stand_ins.row_at(start, end)) is not None:
                yield place, row_id


def splits_around_tokens(read: Read, name: str) -> bool:
    """Whether a tokenizer reads the text around an added token in another way than around words.

    Args:
        read: How it reads a text.
        name: The added token.
    """
    by_name = read(f"it {name}, it")
    row_id = by_name.ids[by_name.tokens.index(name)]
    text, found = with_stand_ins(f"it {name}, it", read, lambda _: [row_id])
    by_word = read(text)
    inside = {place for place, _ in rows_at(by_word.offsets, found)}
    around = [token_id for place, token_id in enumerate(by_word.ids) if place not in inside]
    return bool(found) and around != [token_id for token_id in by_name.ids if token_id != row_id]


def _are_apart(stand_ins: StandIns, encoding: Any) -> bool:
    """Whether each word is a token of its own."""
    try:
        return [row for _, row in rows_at(encoding.offsets, [stand_ins])] == stand_ins.row_ids
    except ValueError:
        return False
