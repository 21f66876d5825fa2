"""Prompts -> do they name the concepts that are loaded?"""

import difflib
import re
from collections.abc import Sequence

from ..errors import ConfigError
from ..triggers import holds_trigger

_LIKE_A_TOKEN = re.compile(r"<[^<>\s]+>")


def check_named(prompts: Sequence[str], tokens: Sequence[str]) -> None:
    """Check that prompts name only concepts that are loaded: a wrong name would silently draw something else.

    Raises:
        ConfigError: A prompt has a word like ``<mugg>`` that is no concept, or no prompt names any of the concepts.
    """
    for prompt in prompts:
        for word in _LIKE_A_TOKEN.findall(prompt):
            if not holds_trigger(word, tokens):
                close = difflib.get_close_matches(word, tokens, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                loaded = ", ".join(tokens) or "none"
                raise ConfigError(f"{prompt!r}: {word} is not a word that was loaded (loaded: {loaded}){hint}")
    if tokens and not any(holds_trigger(prompt, tokens) for prompt in prompts):
        raise ConfigError(f"expected a prompt with {' or '.join(tokens)}, got {', '.join(map(repr, prompts))}")
