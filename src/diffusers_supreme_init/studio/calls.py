"""How the page's calls are queued and shown, and the title of a step: what all steps share."""

from typing import Any

import gradio as gr

MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
"""Of calls that need the pipeline: one at a time, and the others see their place in the queue."""
EYES: dict[str, Any] = {"concurrency_id": "eyes", "concurrency_limit": 1}
"""Of calls that need the segmenter, which also answers while somebody trains."""
AT_ONCE: dict[str, Any] = {"concurrency_limit": None}
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def heading(number: int, text: str) -> None:
    """Write the title of a step."""
    gr.HTML(f'<h2><span class="number">{number}</span>{text}</h2>')
