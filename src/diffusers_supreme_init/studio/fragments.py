"""What the page shows besides pictures, as HTML; every text of a visitor or a model is escaped here."""

from collections.abc import Mapping, Sequence
from html import escape
from statistics import fmean
from typing import Any

from .learning import Watched
from .words import Tokens

_WIDTH, _HEIGHT = 600, 160
_SMOOTHED_STEPS = 10
_DEEPEST = 0.02
"""Share of the chart's height that stays free above and below the curve."""


def sentences(told: Sequence[str]) -> str:
    """Return sentences as a paragraph each."""
    return "".join(f"<p>{escape(text)}</p>" for text in told)


def chips(tokens: Tokens | None) -> str:
    """Return tokens as chips, and how many fit."""
    if tokens is None or not tokens.tokens:
        return '<p class="hint">The pieces that the model reads will appear here.</p>'
    count = len(tokens.tokens)
    each = "".join(
        f'<li class="chip{" beyond" * (number >= tokens.limit)}">{escape(token)}</li>'
        for number, token in enumerate(tokens.tokens)
    )
    fits = f"{count} piece{'s' * (count > 1)}; at most {tokens.limit} fit."
    told = f"{fits} Each becomes a small vector that is trained." if count <= tokens.limit else f"{fits} Shorten it."
    return f'<ul class="chips" aria-label="Pieces that the model reads">{each}</ul><p class="hint">{told}</p>'


def progress(watched: Watched) -> str:
    """Return a bar with the steps made and the time left."""
    learned = watched.learned
    told = _told(watched)
    bar = f'<progress max="{learned.target}" value="{learned.steps}" aria-label="Steps made"></progress>'
    notices = "".join(f'<p class="notice">{escape(text)}</p>' for text in watched.notices)
    return f'<div class="progress"><p role="status">{escape(told)}</p>{bar}{notices}</div>'


def curve(losses: Sequence[float]) -> str:
    """Return the training losses as a curve: each step faint, the mean of some steps strong."""
    if len(losses) < 2:
        return '<p class="hint">The curve of the loss begins after two steps.</p>'
    smooth = [fmean(losses[max(0, step - _SMOOTHED_STEPS + 1) : step + 1]) for step in range(len(losses))]
    low, high = min(losses), max(losses)
    label = f"Loss over {len(losses)} steps, from {smooth[0]:.4f} to {smooth[-1]:.4f}"

    def line(values: Sequence[float], kind: str) -> str:
        points = " ".join(
            f"{step / (len(values) - 1) * _WIDTH:.1f},{_y(value, low, high):.1f}" for step, value in enumerate(values)
        )
        return f'<polyline class="{kind}" points="{points}"/>'

    return (
        f'<figure class="curve"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}" '
        f'preserveAspectRatio="none">{line(losses, "each")}{line(smooth, "mean")}</svg>'
        f"<figcaption>How far off the model is (loss), step 1 to {len(losses)}: now {smooth[-1]:.4f}. Single steps "
        "jump about; the strong line is their mean.</figcaption></figure>"
    )


def cost(spent: Mapping[str, Any], token: str, words: str) -> str:
    """Return what a word cost, in a sentence or two."""
    text = (
        f"{token} grew from “{words}” in {spent['steps']} steps and {_duration(spent['seconds'])}: {spent['rows']} "
        f"vectors, {spent['bytes'] / 1000:.0f} kB. The model itself is unchanged."
    )
    before, after = spent["loss_before"], spent["loss_after"]
    if before is not None and spent["steps"]:
        text += f" The loss went from {before:.4f} to {after:.4f}."
    return f'<p class="cost">{escape(text)}</p>'


def words_here(tokens: Sequence[str]) -> str:
    """Return the words that can be drawn, in a sentence."""
    if not tokens:
        return sentences(["There is no word yet."])
    return sentences([f"Words that you can use in prompts: {', '.join(tokens)}"])


def link(url: str) -> str:
    """Return a link that opens in a new tab."""
    return f'<p>Published: <a href="{escape(url)}" target="_blank" rel="noopener">{escape(url)}</a></p>'


def _told(watched: Watched) -> str:
    learned = watched.learned
    steps = f"{learned.steps} of {learned.target} steps"
    if watched.is_over:
        is_whole = learned.steps >= learned.target
        ending = "Done" if is_whole else "Stopped; everything learned so far is kept"
        return f"{ending}: {steps} in {_duration(learned.seconds)}."
    if watched.doing != "Learning":
        return f"{watched.doing} …" if not learned.steps else f"{steps}. {watched.doing} …"
    left = "" if watched.seconds_left is None else f", about {_duration(watched.seconds_left)} left"
    return f"{steps}{left}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _y(value: float, low: float, high: float) -> float:
    share = (value - low) / (high - low) if high > low else 0.5
    return _HEIGHT * (1 - _DEEPEST - share * (1 - 2 * _DEEPEST))
