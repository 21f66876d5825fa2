"""The studio on a port of this machine: opened, served from a folder of its own, and closed without a trace."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from ..errors import ConfigError, one_line
from .messages import listening
from .page import HEAD, STYLE, build_page
from .settings import StudioSettings
from .visits import Visits

LOOPBACK = "127.0.0.1"
_LARGEST_UPLOAD = "100mb"
_MOST_SESSIONS = 200
"""Of which gradio remembers what the page shows, should so many be here at once; see `_forget`."""
_FOLDERS = {"GRADIO_TEMP_DIR": "uploads", "GRADIO_EXAMPLES_CACHE": "uploads/examples"}
"""Where gradio keeps files. It serves all of its two folders, and by default one of them is in the current folder."""

_SUBDUED = ("body_text_color_subdued", "block_info_text_color", "input_placeholder_color", "accordion_text_color")
_LABELS = ("block_label_text_color", "block_title_text_color", "link_text_color")
_LABEL_FILLS = ("block_label_background_fill", "block_title_background_fill")
_FILLS = ("button_primary_background_fill", "checkbox_label_background_fill_selected", "slider_color")
_FILLS_UNDER_POINTER = ("button_primary_background_fill_hover",)


@dataclass(frozen=True)
class StudioServer:
    """A studio that is open.

    Attributes:
        url: Its address.
        page: The page.
        visits: Who is here.
    """

    url: str
    page: gr.Blocks
    visits: Visits

    def wait(self) -> None:
        """Serve until Ctrl-C."""
        self.page.block_thread()


@contextlib.contextmanager
def open_studio(
    settings: StudioSettings,
    *,
    server_name: str = LOOPBACK,
    server_port: int | None = None,
    inbrowser: bool = False,
) -> Iterator[StudioServer]:
    """Open a studio; it is closed, and everything of its visitors deleted, at the end of the ``with``.

    ```python
    with open_studio(settings) as studio:
        print(studio.url)
        studio.wait()
    ```

    Args:
        settings: What it works with.
        server_name: Address to listen on; the default is reached from this machine only.
        server_port: Port; None: the first free one from 7860.
        inbrowser: Whether to open a tab.

    Raises:
        ConfigError: The port is taken, or the address is not one of this machine.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="studio-", ignore_cleanup_errors=True)))
        stack.enter_context(_environment({name: str(folder / path) for name, path in _FOLDERS.items()}))
        stack.enter_context(listening())
        visits = Visits(
            folder / "visits",
            folder / "uploads" / "shown",
            grace_seconds=settings.grace_seconds,
            idle_seconds=settings.idle_seconds,
            forget=lambda session: _forget(page, session),
        )
        stack.enter_context(visits.swept())
        page = build_page(settings, visits)
        page.queue(api_open=False, default_concurrency_limit=8)
        try:
            _, url, _ = page.launch(
                server_name=server_name,
                server_port=server_port,
                inbrowser=inbrowser,
                theme=_theme(),
                css_paths=STYLE,
                head=HEAD,
                footer_links=["api"],
                allowed_paths=[],
                max_file_size=_LARGEST_UPLOAD,
                state_session_capacity=_MOST_SESSIONS,
                ssr_mode=False,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
            )
        except OSError as error:
            raise ConfigError(f"cannot listen on {server_name}, port {server_port}: {one_line(error)}") from error
        visits.keep_what_is_in(folder / "uploads")
        stack.callback(visits.close_all)
        stack.callback(page.close, verbose=False)
        yield StudioServer(url, page, visits)


def _forget(page: gr.Blocks, session: str) -> None:
    """Let gradio forget what a page showed, texts of its visitor among it; by itself, it keeps many sessions."""
    holder = page.state_holder
    with holder.lock:
        holder.session_data.pop(session, None)
        holder.time_last_used.pop(session, None)


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _theme() -> Any:
    """Return colors and fonts; the fonts are the system's, so that no page asks another server for one."""
    theme = gr.themes.Soft(
        primary_hue="teal",
        neutral_hue="slate",
        font=("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"),
        font_mono=("ui-monospace", "Consolas", "monospace"),
    )
    # The theme's own labels, hints and buttons have too little contrast to be read by everybody.
    return theme.set(**_in_both_modes(_SUBDUED, "*neutral_600", "*neutral_300")).set(
        **_in_both_modes(_LABELS, "*primary_800", "*primary_200"),
        **_in_both_modes(_LABEL_FILLS, "*primary_50", "*neutral_800"),
        **_in_both_modes(_FILLS, "*primary_700", "*primary_700"),
        **_in_both_modes(_FILLS_UNDER_POINTER, "*primary_800", "*primary_800"),
    )


def _in_both_modes(names: Sequence[str], light: str, dark: str) -> dict[str, str]:
    return {name: light for name in names} | {f"{name}_dark": dark for name in names}
