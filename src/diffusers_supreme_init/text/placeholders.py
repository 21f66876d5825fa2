"""Description -> token ids, and the checks of placeholder tokens and of lengths in tokens."""

import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from ..errors import InitializerError, PlaceholderTokenError, SupremeInitWarning, shown
from ..multitoken import attaches_spaces
from ..triggers import find_trigger, has_token, holds_trigger, is_row_name

_DANGLING_WORDS = frozenset(("a", "an", "the", "and", "or", "of", "with", "in", "on", "at", "by", "for", "to", "from"))


@dataclass(frozen=True)
class InitializerTokens:
    """The tokens that a concept's rows start from.

    Attributes:
        token_ids: One id per row.
        tokens: The same tokens as strings, e.g. ``("a</w>", "mug</w>")``.
        num_cut: Number of tokens at the end of the description that no row starts from.
        num_repeated: Number of rows beyond the last token; these repeat the tokens from the first.
    """

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    num_cut: int = 0
    num_repeated: int = 0


def check_placeholder_token(placeholder_token: str, tokenizers: Sequence[PreTrainedTokenizerBase]) -> None:
    """Check that a new concept may be trained under this name.

    Raises:
        PlaceholderTokenError: The name is empty, contains spaces, capitals or control characters, is an ordinary
            word, or is taken.

    Warns:
        SupremeInitWarning: The name has no delimiters, so prompts may contain it by chance.
    """
    token = placeholder_token
    example = "choose a delimited one such as '<mug>'"
    if not isinstance(token, str) or not token:
        raise PlaceholderTokenError(f"placeholder_token: expected a non-empty text, got {shown(token)}; {example}")
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
    """Check that a tokenizer does not know `trigger` yet, either as a token or as a concept.

    Raises:
        PlaceholderTokenError: The tokenizer knows it; or it is empty, contains control characters, has the form of an
            internal row name, or becomes longer in lower case (``"İ"``).
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
    is_token = has_token(tokenizer, trigger)  # checked first, because listing all added tokens is slow
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
    return f"<{core}-2>" if core != trigger else f"<{core}>"  # diffusers' loader may already hold <mug> itself


def tokenize_initializer(
    text: str, tokenizer: PreTrainedTokenizerBase, *, num_vectors: int | None = None
) -> InitializerTokens:
    """Split a description into the tokens that a concept's rows start from (paper, section 3).

    Args:
        text: Any description: ``"a skull and bones mug"``, a class label, ``"*"``.
        tokenizer: The tokenizer of the encoder that will hold the rows.
        num_vectors: Number of rows, at least 1. None: the number of tokens. A smaller number cuts the description, a
            larger one repeats it.

    Raises:
        InitializerError: `num_vectors` is less than 1; or the text is empty, has no tokens, or contains special tokens
            or characters that the tokenizer does not know.
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
    """Return the token ids that a description has in the middle of a prompt, after a space."""
    in_prompt = f" {text.lstrip()}" if attaches_spaces(tokenizer) else text
    return tokenizer(in_prompt, add_special_tokens=False, verbose=False)["input_ids"]


@dataclass(frozen=True)
class TokenLimit:
    """The number of description tokens that fit one text encoder, counted by its tokenizer."""

    tokenizer: PreTrainedTokenizerBase
    limit: int

    def count(self, text: str) -> int:
        """Return the number of tokens of a text, without special tokens such as those at the ends of a prompt."""
        return len(_ids_of(text, self.tokenizer))

    def num_beyond(self, text: str) -> int:
        """Return the number of tokens of a text that do not fit."""
        return max(self.count(text) - self.limit, 0)


def cut_to_tokens(text: str, limits: Sequence[TokenLimit]) -> tuple[str, int]:
    """Cut a description between two words so that it fits every text encoder.

    Words that would be left dangling at the end ("with" in "a mug with") are cut too. The first word always stays.

    Returns:
        The remaining words, and the number of tokens that were cut, counted by the tokenizer that the description
        exceeded the most.
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
    """Return the number of rows that fit into a text encoder's window beside the words of the longest prompt."""
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
        placeholder_token: Name of the concept, as it is written in the prompts.
        num_vectors: Number of its rows.
        prompts: Training prompts.
        tokenizer: The tokenizer of the text encoder.
        window: Number of tokens that the text encoder reads (CLIP: 77, with the two at the ends).
        encoder_name: Name of the text encoder, for the message.

    Raises:
        InitializerError: The rows do not fit. Rows beyond the window would be cut off and never trained.
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
    """Check that a text encoder without rows reads the whole description, even in the longest training prompt.

    Args:
        description: The words that the text encoder reads in place of the concept.
        prompts: Training prompts that contain the description.
        tokenizer: The tokenizer of the text encoder.
        window: Number of tokens that the text encoder reads.
        encoder_name: Name of the text encoder, for the message.

    Raises:
        InitializerError: The description would be cut off.
    """
    needed = max(len(tokenizer(prompt, verbose=False)["input_ids"]) for prompt in prompts)
    if needed > window:
        raise InitializerError(
            f"initializer: expected a description that {encoder_name} can read ({window} tokens with the longest "
            f"template), got {needed} tokens for {description!r}; shorten it"
        )
