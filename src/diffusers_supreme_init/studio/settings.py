"""`StudioSettings`: the model, the describers and the rules that a studio works with."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ..describers import Describers
from ..evaluation import EDITING_PROMPTS

Login: TypeAlias = Literal["machine", "space", "token"]
"""Whose login pushes: that of this machine, that of the visitor on a Space, or a token that the visitor types."""

MAX_PICTURE_PIXELS = 64_000_000
"""Larger uploads are refused: they take 0.2 GB as RGB, several times over, for each visitor."""
SHOWN_SIDE = 1024
"""Longest side of pictures on the page, in pixels. Clicks are scaled to the true size."""
MAX_PROMPT_LETTERS = 2000
NUM_PREVIEWS = 2
"""Pictures drawn of the learned word while it trains, each from a noise of its own."""
PREVIEW_SIDE = 256
"""Pictures of smaller models are enlarged to about this side for previews."""
MAX_STEPS = 1000
MORE_STEPS = 30


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


@dataclass(frozen=True, kw_only=True)
class StudioSettings:
    """What a studio works with; all visitors share it.

    Attributes:
        pipe: The pipeline, on the device it draws on.
        describers: The models that find words and regions.
        model: What the pipeline is called: a Hub id, a folder, or ``"toybox"``.
        sampling: Arguments of the pipeline for every picture: ``num_inference_steps``, ``guidance_scale``.
        training: Settings of `SupremeInitConfig` that differ from its defaults for this model.
        report_prompts: Other sentences that the report draws; ``{}`` stands for the word.
        prompts: The sentences of the gallery; ``{}`` stands for the word.
        examples: Pictures to try.
        login: See `Login`.
        seconds_per_call: After so many seconds of training, the run is saved and goes on in a call of its own, for
            hosts that limit calls; None: no limit.
        grace_seconds: How long a visitor's files are kept after the page was closed. A phone that loses its
            connection comes back within seconds.
        idle_seconds: Everything of a visitor who has called nothing for so long is deleted. An open page calls by
            itself; this is for scripts, which do not say when they leave.
        on_gpu: Decorator of the functions that need the GPU, ``spaces.GPU`` on ZeroGPU.
    """

    pipe: Any
    describers: Describers
    model: str
    sampling: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    report_prompts: Sequence[str] = EDITING_PROMPTS[:2]
    prompts: Sequence[str] = EDITING_PROMPTS
    examples: Sequence[Path] = ()
    login: Login = "token"
    seconds_per_call: float | None = None
    grace_seconds: float = 30.0
    idle_seconds: float = 3600.0
    on_gpu: Callable[[Callable[..., Any]], Callable[..., Any]] = _as_it_is
    using_model: threading.Lock = field(default_factory=threading.Lock, repr=False)
    """Held by whoever draws or trains: the words on the pipeline are one visitor's at a time."""
    using_eyes: threading.Lock = field(default_factory=threading.Lock, repr=False)
    """Held by whoever asks the describers, which remember the picture they saw last."""
