"""Description -> token ids: what a concept may be called, and which tokens its rows start from."""

import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from ..errors import InitializerError, PlaceholderTokenError, SupremeInitWarning
from ..multitoken import attaches_spaces
from ..triggers import find_trigger, has_token, holds_trigger, is_row_name

_DANGLING_WORDS = frozenset(("a", "an", "the", "and", "or", "of", "with", "in", "on", "at", "by", "for", "to", "from"))


@dataclass(frozen=True)
class InitializerTokens:
    """The tokens a concept's rows start from.

    Attributes:
        token_ids: One id per row.
        tokens: The same as strings, e.g. ``("a</w>", "mug</w>")``.
        num_cut: Tokens of the description beyond the last row, which start nothing.
        num_repeated: Rows beyond the last token, which start again from the first.
    """

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    num_cut: int = 0
    num_repeated: int = 0


def check_placeholder_token(placeholder_token: str, tokenizers: Sequence[PreTrainedTokenizerBase]) -> None:
    """Check that a new concept may be trained under this name.

    Raises:
        PlaceholderTokenError: It is empty, holds spaces, capitals or control characters, is an ordinary word, or is
            taken.

    Warns:
        SupremeInitWarning: It has no delimiters, so it also matches where somebody just writes the word.
    """
    token = placeholder_token
    example = "choose a delimited one such as '<mug>'"
    if not isinstance(token, str) or not token:
        raise PlaceholderTokenError(f"placeholder_token: expected a non-empty text, got {token!r}; {example}")
    if any(character.isspace() for character in token):
        raise PlaceholderTokenError(f"placeholder_token: expected no spaces, got {token!r}; {example}")
    if any(unicodedata.category(character).startswith("C") for character in token):
        raise PlaceholderTokenError(f"placeholder_token: expected no control characters, got {token!r}; {example}")
    if token != token.lower():
        raise PlaceholderTokenError(
            f"placeholder_token: expected no capitals (CLIP lower-cases prompts), got {token!r}; use {token.lower()!r}"
        )
    if token.isalpha():
        raise PlaceholderTokenError(f"placeholder_token: expected no ordinary word, got {token!r}; use '<{token}>'")
    for tokenizer in tokenizers:
        check_trigger_is_free(token, tokenizer)
    if token[0].isalnum() or token[-1].isalnum():
        warnings.warn(
            f"placeholder_token {token!r} is not delimited: prompts that hold it by chance will show the concept; "
            f"'<{token}>' is safer",
            SupremeInitWarning,
            stacklevel=2,
        )


def check_trigger_is_free(trigger: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a tokenizer does not know `trigger` yet, neither as a token nor as a concept.

    Raises:
        PlaceholderTokenError: It does, or `trigger` is empty or has the form of an internal row name.
    """
    has_controls = any(unicodedata.category(character) in ("Cc", "Cs") for character in trigger)
    if not trigger.strip() or has_controls or is_row_name(trigger):
        raise PlaceholderTokenError(f"placeholder_token: expected a name such as '<mug>', got {trigger!r}")
    if not holds_trigger(trigger, [trigger]):
        raise PlaceholderTokenError(
            f"placeholder_token: expected a name that is found in any case, got {trigger!r}, whose small letters are "
            f"others; choose e.g. '<concept>'"
        )
    if find_trigger(tokenizer, trigger) is not None:
        raise PlaceholderTokenError(
            f"placeholder_token: {trigger!r} is already loaded; choose another, or call "
            f"unload_multitoken_inversion({trigger!r}) first"
        )
    is_token = has_token(tokenizer, trigger)  # asked first: it takes long to list all added tokens
    if is_token and trigger in tokenizer.added_tokens_encoder and trigger not in tokenizer.all_special_tokens:
        raise PlaceholderTokenError(
            f"placeholder_token: {trigger!r} was added to the tokenizer by somebody else; if it was diffusers' own "
            f"loader, call unload_textual_inversion({trigger!r}) first, or choose e.g. {_another(trigger)!r}"
        )
    tokens = tokenizer.tokenize(trigger)
    is_one_token = len(tokens) == 1 and tokenizer.convert_tokens_to_ids(tokens[0]) != tokenizer.unk_token_id
    if is_one_token or is_token:
        raise PlaceholderTokenError(
            f"placeholder_token: {trigger!r} is an ordinary token of the vocabulary; choose e.g. {_another(trigger)!r}"
        )


def _another(trigger: str) -> str:
    core = trigger.strip("<>")
    return f"<{core}-2>" if core != trigger else f"<{core}>"  # who loaded <mug> with diffusers' loader needs another


def tokenize_initializer(
    text: str, tokenizer: PreTrainedTokenizerBase, *, num_vectors: int | None = None
) -> InitializerTokens:
    """Split a description into the tokens its rows start from (paper, section 3).

    Args:
        text: Any description: ``"a skull and bones mug"``, a class label, ``"*"``.
        tokenizer: The tokenizer of the encoder that will hold the rows.
        num_vectors: Number of rows; None: the number of tokens. Fewer cut the description, more repeat it.

    Raises:
        InitializerError: The text is empty, leaves no token, or has characters the tokenizer lacks.
    """
    if num_vectors is not None and num_vectors < 1:
        raise InitializerError(f"num_vectors: expected at least 1, or None for one per token, got {num_vectors}")
    if not text.strip():
        raise InitializerError(f"initializer: expected a description such as 'a red mug', got {text!r}")
    ids = _ids_of(text, tokenizer)
    if not ids:
        raise InitializerError(f"initializer: expected a description with at least one token, got {text!r} with none")
    foreign = sorted(
        {token for token in tokenizer.convert_ids_to_tokens(ids) if token in tokenizer.all_special_tokens}
    )
    if foreign:
        raise InitializerError(
            f"initializer: expected ordinary words, got {text!r}, which has characters the tokenizer does not know "
            f"or special tokens ({', '.join(foreign)}); leave them out"
        )
    wanted = len(ids) if num_vectors is None else num_vectors
    token_ids = tuple(ids[index % len(ids)] for index in range(wanted))
    return InitializerTokens(
        token_ids=token_ids,
        tokens=tuple(tokenizer.convert_ids_to_tokens(list(token_ids))),
        num_cut=max(len(ids) - wanted, 0),
        num_repeated=max(wanted - len(ids), 0),
    )


def _ids_of(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of a description as they are in the middle of a prompt, where a space comes before it."""
    in_prompt = f" {text.lstrip()}" if attaches_spaces(tokenizer) else text
    return tokenizer(in_prompt, add_special_tokens=False, verbose=False)["input_ids"]


@dataclass(frozen=True)
class TokenLimit:
    """How many tokens of a description fit one text encoder, as its tokenizer counts them."""

    tokenizer: PreTrainedTokenizerBase
    limit: int

    def count(self, text: str) -> int:
        """Return the number of tokens of a text, without those at its ends."""
        return len(_ids_of(text, self.tokenizer))

    def num_beyond(self, text: str) -> int:
        """Return how many tokens of a text do not fit."""
        return max(self.count(text) - self.limit, 0)


def cut_to_tokens(text: str, limits: Sequence[TokenLimit]) -> tuple[str, int]:
    """Cut a description between two words so that it fits every text encoder.

    Words that only lead to the next one ("a mug with") go too.

    Returns:
        The words that are left, and the number of tokens that were cut, as the encoder counts them that forced it.
    """
    beyond = [limit.num_beyond(text) for limit in limits]
    if not any(beyond):
        return text, 0
    words = text.split()
    while len(words) > 1 and (
        words[-1] in _DANGLING_WORDS or any(limit.num_beyond(" ".join(words)) for limit in limits)
    ):
        words.pop()
    left = " ".join(words)
    tightest = limits[beyond.index(max(beyond))]
    return left, tightest.count(text) - tightest.count(left)


def num_rows_that_fit(
    placeholder_token: str, prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, window: int
) -> int:
    """Return how many rows fit into a text encoder's window beside the words of the longest prompt."""
    texts = [prompt.replace(placeholder_token, "") for prompt in prompts]
    longest = max(len(tokenizer(text, verbose=False)["input_ids"]) for text in texts)
    return window - longest


def check_rows_fit(
    placeholder_token: str,
    num_vectors: int,
    prompts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    window: int,
    encoder_name: str,
) -> None:
    """Check that all rows fit into a text encoder's window beside the words of the longest training prompt.

    Args:
        placeholder_token: Name of the concept, as it stands in the prompts.
        num_vectors: Number of its rows.
        prompts: Training prompts.
        tokenizer: Counts.
        window: Tokens that are read (CLIP: 77 with the two at the ends).
        encoder_name: Whose window it is.

    Raises:
        InitializerError: They do not fit; beyond the window rows would be cut off and never learn.
    """
    room = num_rows_that_fit(placeholder_token, prompts, tokenizer, window)
    if num_vectors > room:
        raise InitializerError(
            f"initializer of {placeholder_token}: expected at most {room} tokens beside the longest template, got "
            f"{num_vectors} in {encoder_name}; shorten the description, or pass num_vectors={room}"
        )


def check_description_fits(
    description: str, prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, window: int, encoder_name: str
) -> None:
    """Check that a text encoder without rows reads the whole description, also in the longest training prompt.

    Args:
        description: What it reads in place of the concept.
        prompts: Training prompts with the description in them.
        tokenizer: Counts.
        window: Tokens that are read.
        encoder_name: Whose window it is.

    Raises:
        InitializerError: It would be cut off.
    """
    needed = max(len(tokenizer(prompt, verbose=False)["input_ids"]) for prompt in prompts)
    if needed > window:
        raise InitializerError(
            f"initializer: expected a description that {encoder_name} can read ({window} tokens with the longest "
            f"template), got {needed} tokens for {description!r}; shorten it"
        )
