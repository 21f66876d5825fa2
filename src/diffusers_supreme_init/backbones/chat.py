"""Families whose text encoder is a language model: the pipeline writes a template around each prompt."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from ..errors import UnsupportedPipelineError, one_line
from ..text.text_pairs import TextPair
from .flow import FlowBackbone

_PROBE = "a mug"


class ChatBackbone(FlowBackbone):
    """Flow matching on what a language model makes of a prompt within a template.

    Attributes:
        cuts_prefix: Whether the pipeline drops the hidden states of the tokens before the prompt, and does not count
            them among `max_sequence_length`.
        num_before: Tokens that the template has before the prompt.
        num_after: Tokens that the template has after the prompt.
    """

    cuts_prefix: ClassVar[bool] = False

    def __init__(self, pipe: Any, train_text_encoders: Sequence[str] = ()) -> None:
        super().__init__(pipe, train_text_encoders)
        tokenizer = self.trained[0].tokenizer
        before, after = self._around_prompt()
        self.num_before, self.num_after = _num_tokens(before, tokenizer), _num_tokens(after, tokenizer)

    @abstractmethod
    def written(self, prompt: str) -> str:
        """Return what the pipeline gives to the tokenizer for a prompt."""

    def window(self, pair: TextPair) -> int:  # noqa: D102 - see `Backbone`
        return super().window(pair) - self.num_after - (0 if self.cuts_prefix else self.num_before)

    def check_prefix(self, num_cut: int) -> None:
        """Check that the tokens before the prompt are those that the pipeline drops.

        Raises:
            UnsupportedPipelineError: The tokenizer splits them otherwise, so that the cut would go through the prompt.
        """
        if self.num_before != num_cut:
            raise UnsupportedPipelineError(
                f"expected a template with {num_cut} tokens before the prompt, which {type(self.pipe).__name__} cuts "
                f"off, got {self.num_before}; load the tokenizer that was published with the model"
            )

    def _around_prompt(self) -> tuple[str, str]:
        name = type(self.pipe).__name__
        try:
            text = self.written(_PROBE)
        except ValueError as error:
            raise UnsupportedPipelineError(
                f"expected a tokenizer with a chat template for {name}, got one without ({one_line(error)}); load the "
                "tokenizer that was published with the model"
            ) from error
        before, found, after = text.partition(_PROBE)
        if not found:
            raise UnsupportedPipelineError(
                f"expected a template that holds the prompt for {name}, got one that writes {one_line(text)!r} for "
                f"{_PROBE!r}; load the tokenizer that was published with the model"
            )
        return before, after


def _num_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> int:
    return len(tokenizer(text, add_special_tokens=False).input_ids)
