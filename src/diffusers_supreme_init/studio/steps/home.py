"""Step 5: files for each program, code, a report, and publishing."""

from pathlib import Path
from typing import Any

import gradio as gr

from .. import drawing, fragments, home
from ..calls import AT_ONCE, MODEL, PRIVATE, Step, heading, told
from ..home import PROGRAMS
from ..lessons import reporter_of
from ..settings import StudioSettings
from ..visits import Visits

ACCOUNT = "account"
"""Path of the page on which visitors of a Space log in."""


class HomeStep(Step):
    """What the visitor takes home.

    Attributes:
        section: The step, hidden until a word was learned.
    """

    def __init__(self, settings: StudioSettings, visits: Visits, words_here: gr.HTML) -> None:
        """Lay it out."""
        super().__init__(settings, visits)
        self._write_report = settings.on_gpu(reporter_of(settings))
        with gr.Column(elem_classes="step", visible=False) as self.section:
            heading(5, "Take it home")
            told_cost = gr.HTML(elem_id="cost", label="Cost, for reading")
            with gr.Row(equal_height=False):
                with gr.Column(min_width=260):
                    self._program = gr.Dropdown(
                        [one.name for one in PROGRAMS],
                        value=PROGRAMS[0].name,
                        label="For which program?",
                        elem_id="program",
                    )
                    file = gr.DownloadButton("Download", variant="primary", elem_id="download")
                    usage = gr.HTML(elem_classes="hint", elem_id="usage", label="What to do with the file")
                with gr.Column(min_width=260):
                    make = gr.Button("Write a report", elem_id="make-report")
                    self._report = gr.DownloadButton("Download the report", visible=False, elem_id="report")
                    gr.HTML('<p class="hint">Everything on one page: pictures, losses, words, settings.</p>')
            spent = gr.JSON(visible=False, label="Cost")
            self._code = gr.Code(
                label="Use it in Python",
                language="python",
                interactive=False,
                wrap_lines=True,
                show_line_numbers=False,
                elem_id="code",
            )
            self._publishing()
            self._shown, self._file = [spent, told_cost, self._code, words_here], [file, usage]
            chosen = self._program.input(
                told(self.download), self._program, self._file, api_name="download", **AT_ONCE
            )
            self._no_file_after_failure_of(chosen)
            make.click(told(self.report), None, self._report, api_name="report", show_progress_on=make, **MODEL)

    def show_after(self, event: Any, **named: Any) -> Any:
        """Show everything about the word after an event, which makes any older report disappear; return its event."""
        shown = event.success(told(self.take_home), None, self._shown, **named, **AT_ONCE)
        shown.success(lambda: gr.update(visible=False), None, self._report, **PRIVATE)
        written = shown.success(told(self.download), self._program, self._file, **PRIVATE)
        self._no_file_after_failure_of(written)
        return shown

    def renew_code_after(self, event: Any) -> None:
        """Let the code draw what the gallery shows after an event."""
        event.success(told(self.code), None, self._code, **PRIVATE, **AT_ONCE)

    def take_home(self, request: gr.Request) -> tuple[Any, ...]:
        """Return what the word cost as a record and for reading, code, and all words as HTML."""
        visit = self.visit(request)
        lesson, spent = home.saved(visit).lesson, home.cost(visit)
        told_cost = fragments.cost(spent, lesson.token, lesson.words)
        tokens = list(drawing.sources_of(visit))
        return spent, told_cost, home.snippet(self.settings, visit), fragments.words_here(tokens)

    def code(self, request: gr.Request) -> str:
        """Return code that draws the first picture of the gallery that is shown."""
        return home.snippet(self.settings, self.visit(request))

    def download(self, program: str, request: gr.Request) -> tuple[Any, ...]:
        """Write the word for a program: the file, and what to do with it."""
        path, usage = home.download(self.visit(request), program)
        label = f"Download {Path(path).name} ({max(1, round(Path(path).stat().st_size / 1000))} kB)"
        return gr.update(value=path, label=label, interactive=True), fragments.sentences([usage])

    def report(self, request: gr.Request) -> Any:
        """Write the report of `supreme-init train`, the same file."""
        visit = self.visit(request)
        run = home.saved(visit)
        path = self._write_report(run.lesson, visit.folder, run.steps)
        return gr.update(value=visit.show_file(path.name, path), visible=True)

    def push(self, repo_id: str, private: bool, replace: bool, token: str, request: gr.Request) -> str:
        """Publish the word with a token of the visitor's, or this machine's login if that is the rule here."""
        return self._push(repo_id, private, replace, token.strip() or None, request)

    def push_logged_in(
        self, repo_id: str, private: bool, replace: bool, request: gr.Request, login: gr.OAuthToken | None
    ) -> str:
        """Publish the word with the login of a visitor of a Space."""
        return self._push(repo_id, private, replace, None if login is None else login.token, request)

    def _push(self, repo_id: str, private: bool, replace: bool, token: str | None, request: gr.Request) -> str:
        url = home.push(self.settings, self.visit(request), repo_id, private=private, replace=replace, token=token)
        return fragments.link(url)

    def _no_file_after_failure_of(self, event: Any) -> None:
        """Offer no file of another program or of an older word."""
        none = gr.update(value=None, label="Download", interactive=False)
        event.failure(lambda: (none, ""), None, self._file, **PRIVATE)

    def _publishing(self) -> None:
        login = self.settings.login
        with gr.Accordion("Publish it on the Hugging Face Hub", open=False):
            gr.HTML('<p class="hint">The word and a card that tells how it was made; your photo stays with you.</p>')
            if login == "space":
                gr.HTML(f'<p><a href="{ACCOUNT}" target="_blank">Log in to Hugging Face</a>, in another tab.</p>')
            with gr.Row():
                repo = gr.Textbox(label="Your name and the word’s", placeholder="user/mug", elem_id="repo")
                private = gr.Checkbox(True, label="Only I can see it")
                replace = gr.Checkbox(False, label="Replace what is there")
            token = gr.Textbox(
                label="Your access token, with the right to write",
                type="password",
                visible=login == "token",
                info="Used once, never kept.",
            )
            go = gr.Button("Publish")
            published = gr.HTML(elem_id="published", label="Where it was published")
            asked = [repo, private, replace]
            if login == "space":
                go.click(told(self.push_logged_in), asked, published, api_name="push", **AT_ONCE)
            else:
                go.click(told(self.push), [*asked, token], published, api_name="push", **AT_ONCE)
