"""What some pipelines do to a prompt before any tokenizer sees it, and what a concept's name has to do with it."""

import functools
import importlib.util
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

_REWRITING = {"enable_prompt_rewrite": None, "use_pe": "pe"}
"""Arguments that let a language model rewrite the prompt (LongCat-Image, ERNIE-Image), and the component it needs."""

_AS_WRITTEN = {"clean_caption": False, "skip_text_cleaning": True, "enable_prompt_rewrite": False, "use_pe": False}
"""Arguments of calls, and the values with which a prompt reaches the tokenizers as it was written."""


def as_written(pipe: Any) -> dict[str, bool]:
    """Return the arguments with which a pipeline's calls leave a prompt as it is; most pipelines need none."""
    arguments = _arguments(pipe.__class__)
    return {name: value for name, value in _AS_WRITTEN.items() if name in arguments}


def why_lost(pipe: Any, placeholder_token: str) -> str | None:
    """Return what a pipeline's calls would do to a placeholder token, and the way out; None if it reaches tokenizers.

    Asked is the pipeline's own cleaning function, with the defaults of its ``__call__``.
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
    """Return the function that cleans prompts unless told not to, and the argument that tells it so."""
    if "clean_caption" in arguments and arguments["clean_caption"].default is True and _are_installed("bs4", "ftfy"):
        return pipe._clean_caption, "clean_caption=False"
    if "skip_text_cleaning" in arguments and _are_installed("ftfy"):
        return pipe.text_preprocessor.clean_text, "skip_text_cleaning=True"
    return None


def _are_installed(*names: str) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in names)  # without them diffusers does not clean


def _survives(token: str, clean: Callable[[str], str]) -> bool:
    return token.lower() in clean(f"a photo of {token} on the beach").lower()


@functools.cache
def _arguments(pipeline_class: type) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(pipeline_class.__call__).parameters
