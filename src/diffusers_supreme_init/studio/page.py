"""The page: five steps from a picture to a word, and what happens in one after something happened in another."""

from pathlib import Path
from typing import Any

import gradio as gr

from .calls import AT_ONCE, PRIVATE
from .settings import StudioSettings
from .steps.gallery import GalleryStep
from .steps.home import ACCOUNT, HomeStep
from .steps.picture import PictureStep
from .steps.training import TrainingStep
from .steps.words import WordsStep
from .visits import Visits

STYLE = Path(__file__).with_name("style.css")
HEAD = """<script>
// Gradio names its empty frames without a role, which screen readers then leave out.
new MutationObserver(() => document.querySelectorAll(".empty[aria-label]:not([role])")
    .forEach((frame) => frame.setAttribute("role", "img")))
    .observe(document.documentElement, { childList: true, subtree: true });
// A reload or a slip of the finger would lose the picture and the word: the browser asks first.
addEventListener("beforeunload", (event) => document.querySelector("#crop img") && event.preventDefault());
</script>"""
TITLE = "The studio: show a picture, get a word"
_UPLOADS_NOBODY_OPENED = (3600, 86400)
"""How often, and after how long, files go that no visit knows of, in seconds."""
_CALLS_WHILE_IDLE = 5
"""How often an open page says that its visitor is here, within `StudioSettings.idle_seconds`."""


def build_page(settings: StudioSettings, visits: Visits) -> gr.Blocks:
    """Return the page.

    Args:
        settings: What the studio works with.
        visits: The list of visitors, which the page keeps.
    """

    def stay(request: gr.Request) -> None:
        if request.session_hash:
            visits.stay(request.session_hash)

    def leave(request: gr.Request) -> None:
        if request.session_hash:
            visits.leave(request.session_hash)

    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=_UPLOADS_NOBODY_OPENED) as page:
        gr.HTML(
            "<h1>Show a picture, get a word</h1><p>Point at something in a photo. The model learns a word for it, and "
            "from then on draws it wherever you like.</p>",
            elem_classes="intro",
        )
        picture, words = PictureStep(settings, visits), WordsStep(settings, visits)
        training, gallery = TrainingStep(settings, visits, words), GalleryStep(settings, visits)
        home = HomeStep(settings, visits, gallery.words_here)
        for opened in picture.opened:
            opened.success(_both_visible, None, [words.section, training.section], **PRIVATE)
            words.begin_anew_after(opened)
        words.begin_anew_after(picture.forgotten)
        for moved in picture.moved:
            words.ask_again_after(moved)
        for number, learned in enumerate(training.learned):
            later = learned.success(_both_visible, None, [gallery.section, home.section], **PRIVATE)
            gallery.forget_own_after(later)
            taking: dict[str, Any] = {"api_name": "take_home"} if number == 0 else {"api_visibility": "private"}
            home.renew_code_after(gallery.draw_after(home.show_after(later, **taking)))
        for drawn in gallery.drawn:
            home.renew_code_after(drawn)
        gr.Timer(settings.idle_seconds / _CALLS_WHILE_IDLE).tick(stay, None, None, **PRIVATE, **AT_ONCE)
        page.unload(leave)
    if settings.login == "space":
        _lay_out_login(page)
    return page


def _lay_out_login(page: gr.Blocks) -> None:
    """Add a page to log in on, for a tab of its own: logging in leaves the page, and the studio would be forgotten."""
    with page.route("Your account", ACCOUNT, show_in_navbar=False):
        gr.HTML(
            "<h1>Log in to Hugging Face</h1><p>Words that you publish will be under your name. Once you are logged "
            "in, close this tab, and go on where you were.</p>",
            elem_classes="intro",
        )
        gr.LoginButton()


def _both_visible() -> list[Any]:
    return [gr.update(visible=True)] * 2
