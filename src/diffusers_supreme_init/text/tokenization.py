"""Description -> tokens: read it, cut it to the tokens that fit, check that a concept fits beside its prompts."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from ..errors import InitializerError
from ..multitoken import attaches_spaces

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
    if all(unicodedata.category(character)[0] in "ZC" for character in text):  # spaces and what nobody sees
        raise InitializerError(f"initializer: expected a description such as 'a red mug', got {text!r}")
    ids = _ids_of(text, tokenizer)
    if not ids:
        raise InitializerError(f"initializer: expected a description with at least one token, got {text!r} with none")
    # Language models have further ones, such as those of chats and pictures.
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    special.update(tokenizer.all_special_tokens)
    foreign = sorted(special.intersection(tokenizer.convert_ids_to_tokens(ids)))
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
        words[-1].lower() in _DANGLING_WORDS or any(limit.num_beyond(" ".join(words)) for limit in limits)
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
