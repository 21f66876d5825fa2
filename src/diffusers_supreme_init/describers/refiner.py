"""Raw caption -> refined caption, by any callable; off unless the user passes one.

Two refiners come with the package: `EndpointRefiner` asks a server, `LocalRefiner` a model on this machine.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from ..errors import ConfigError, SupremeInitError, SupremeInitWarning

Refiner: TypeAlias = Callable[[str], str]
"""Takes a raw caption and returns a refined one."""

SENTIMENTS = ("positive", "natural", "negative")
MAX_WORDS = 100

_SLOT = "{caption}"


@dataclass(frozen=True)
class Refinement:
    """Outcome of refining a caption.

    Attributes:
        text: The refined caption, stripped; the raw one if refining failed.
        failure: Why refining failed, in one line; None if it succeeded.
    """

    text: str
    failure: str | None


@dataclass(frozen=True, kw_only=True)
class RefinementStyle:
    """How a language model should rewrite a caption: the controls of Caption Anything (arXiv:2305.02677).

    >>> RefinementStyle(max_words=6, sentiment="positive").messages("there is a {red} mug")[0]["role"]
    'user'

    Attributes:
        max_words: Approximate number of words to ask for, in [1, 100]; also bounds the length of the answer.
        sentiment: ``"positive"``, ``"natural"`` or ``"negative"``.
        language: Name of the language to answer in. Most text encoders know English only.
        keep_facts: Whether to forbid facts that the caption does not state; if False, likely details may be added.
        instruction: Replaces the whole question; contains ``"{caption}"`` once. Of the other fields, only `max_words`
            keeps an effect, as the bound on the answer's length.

    Raises:
        ConfigError: A value is out of range.
    """

    max_words: int = 12
    sentiment: str = "natural"
    language: str = "English"
    keep_facts: bool = True
    instruction: str | None = None

    def __post_init__(self) -> None:
        if type(self.max_words) is not int or not 1 <= self.max_words <= MAX_WORDS:
            raise ConfigError(f"max_words: expected a whole number in [1, {MAX_WORDS}], got {self.max_words!r}")
        if self.sentiment not in SENTIMENTS:
            raise ConfigError(f"sentiment: expected one of {SENTIMENTS}, got {self.sentiment!r}")
        if not isinstance(self.language, str) or not self.language.isprintable() or not self.language.strip():
            raise ConfigError(f"language: expected the name of a language, e.g. 'English', got {self.language!r}")
        if self.instruction is not None and not isinstance(self.instruction, str):
            raise ConfigError(
                f"instruction: expected a text, or None for the built-in one, got {type(self.instruction).__name__}"
            )
        if self.instruction is not None and (count := self.instruction.count(_SLOT)) != 1:
            raise ConfigError(
                f"instruction: expected {_SLOT!r} exactly once, got it {count} times; write it where the caption goes"
            )

    @property
    def max_new_tokens(self) -> int:
        """Upper bound of the answer's length, in tokens; generous, since some languages need several per word."""
        return 32 + 8 * self.max_words

    def messages(self, caption: str) -> list[dict[str, str]]:
        """Return the chat messages that ask for a refined caption.

        Args:
            caption: Any text; its line breaks become spaces, its braces stay braces.
        """
        question = self._default_instruction() if self.instruction is None else self.instruction
        # A single user message, since some chat templates have no system role. Not `format`, which would fail on other
        # braces in the instruction.
        return [{"role": "user", "content": question.replace(_SLOT, " ".join(caption.split()))}]

    def _default_instruction(self) -> str:
        facts = (
            "Add nothing that the description does not say."
            if self.keep_facts
            else "You may add likely details of the object."
        )
        # The language is the only free text in this question; ``{caption}`` in it would be replaced, too.
        language = self.language.strip().replace("{", "(").replace("}", ")")
        return (
            "Rewrite the description of a picture as one short noun phrase that names its main object. "
            f"Keep colors, materials and shape; leave out the background and words about the picture itself. {facts} "
            f"Use about {self.max_words} words or fewer, of {self.sentiment} sentiment, in {language}. "
            f"Answer with the phrase only.\n\nDescription: {_SLOT}"
        )


def refine(refiner: Refiner, caption: str) -> Refinement:
    """Let a refiner rewrite a caption; if that fails in any way, keep the caption and warn.

    >>> refine(str.upper, "a mug")
    Refinement(text='A MUG', failure=None)

    Args:
        refiner: Any callable that takes a caption and returns a text.
        caption: The raw caption.
    """
    answer: object = None
    failure: str | None = None
    try:
        answer = refiner(caption)
    except Exception as error:  # a refiner is user code or a server; its failure must not lose a good caption
        failure = _one_line(str(error) if isinstance(error, SupremeInitError) else f"{type(error).__name__}: {error}")
    else:
        failure = _why_unusable(answer)
    if failure is None:
        return Refinement(text=str(answer).strip(), failure=None)
    warnings.warn(
        f"refiner: expected better words for {_one_line(caption)!r}, got none ({failure}); the caption stays as it is",
        SupremeInitWarning,
        stacklevel=2,
    )
    return Refinement(text=caption, failure=failure)


def _why_unusable(answer: object) -> str | None:
    if not isinstance(answer, str):
        return f"expected a text, got {type(answer).__name__}"
    if not answer.strip():
        return "expected a text, got an empty one"
    if any("\ud800" <= character <= "\udfff" for character in answer):
        return "expected a text, got one with half characters (lone surrogates), which no tokenizer can read"
    return None


def _one_line(text: str, limit: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[:limit]} ..."
