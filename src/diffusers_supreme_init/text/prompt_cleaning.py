"""Prompt cleaning: some pipelines change a prompt before they tokenize it, and may lose a placeholder token."""

import functools
import importlib.util
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from ..triggers import folded

_REWRITING = {"enable_prompt_rewrite": None, "use_pe": "pe"}
"""Arguments that let a language model rewrite the prompt (LongCat-Image, ERNIE-Image), and the component they need."""

_AS_WRITTEN = {"clean_caption": False, "skip_text_cleaning": True, "enable_prompt_rewrite": False, "use_pe": False}
"""Arguments of pipeline calls, and the values that leave a prompt as it was written."""


def as_written(pipe: Any) -> dict[str, bool]:
    """Return the call arguments that make a pipeline leave a prompt as it was written; most pipelines need none."""
    arguments = _arguments(pipe.__class__)
    return {name: value for name, value in _AS_WRITTEN.items() if name in arguments}


def why_lost(pipe: Any, placeholder_token: str) -> str | None:
    """Return why a placeholder token would not reach the tokenizers, and how to avoid it; None if it would.

    The token is passed through the pipeline's own cleaning function, if the defaults of ``__call__`` use it.
    """
    name = type(pipe).__name__
    arguments = _arguments(pipe.__class__)
    cleaning = _cleaning(pipe, arguments)
    if cleaning is not None and not _survives(placeholder_token, cleaning[0]):
        core = re.sub(r"[^a-z]", "", placeholder_token.lower()) or "concept"
        others = [token for token in (f"<{core}>", f"%{core}%", f"{core}-concept") if _survives(token, cleaning[0])]
        advice = f", or load the concept with token={others[0]!r}" if others else ""
        return f"{name} changes or removes it when it cleans prompts; call the pipeline with {cleaning[1]}{advice}"
    for argument, component in _REWRITING.items():
        is_on = argument in arguments and arguments[argument].default is True
        if is_on and (component is None or getattr(pipe, component, None) is not None):
            return f"{name} lets a language model rewrite prompts, which may lose it; call it with {argument}=False"
    return None


def _cleaning(pipe: Any, arguments: Any) -> tuple[Callable[[str], str], str] | None:
    """Return the function that cleans prompts by default, and the argument that turns it off; None without one."""
    if "clean_caption" in arguments and arguments["clean_caption"].default is True and _are_installed("bs4", "ftfy"):
        return pipe._clean_caption, "clean_caption=False"
    if "skip_text_cleaning" in arguments and _are_installed("ftfy"):
        return pipe.text_preprocessor.clean_text, "skip_text_cleaning=True"
    return None


def _are_installed(*names: str) -> bool:
    # diffusers skips the cleaning if these packages are missing.
    return all(importlib.util.find_spec(name) is not None for name in names)


def _survives(token: str, clean: Callable[[str], str]) -> bool:
    return folded(token) in folded(clean(f"a photo of {token} on the beach"))


@functools.cache
def _arguments(pipeline_class: type) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(pipeline_class.__call__).parameters
