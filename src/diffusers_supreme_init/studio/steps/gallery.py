"""Step 4: pictures of the learned word, from given sentences and one's own."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from .. import drawing, fragments
from ..calls import AT_ONCE, MODEL, PRIVATE, Step, heading, told
from ..settings import StudioSettings
from ..visits import Visits


class GalleryStep(Step):
    """The six pictures, one's own, and further words to draw with.

    Attributes:
        section: The step, hidden until a word was learned.
        words_here: All words that can be drawn.
        drawn: Events of the six pictures that were drawn by a button.
    """

    def __init__(self, settings: StudioSettings, visits: Visits) -> None:
        """Lay it out."""
        super().__init__(settings, visits)
        self._draw = settings.on_gpu(_drawer_of(settings))
        with gr.Column(elem_classes="step", visible=False) as self.section:
            heading(4, "Look what it can do now")
            self._pictures = gr.Gallery(
                label="Six sentences with the word",
                show_label=False,  # it would lie on the first picture
                columns=3,
                height="auto",
                object_fit="contain",
                interactive=False,
                format="png",
                elem_id="gallery",
                buttons=["download", "fullscreen"],
            )
            with gr.Row(elem_classes="low"):
                self._seed = gr.Number(
                    0, label="Seed", info="The same seed draws the same picture.", precision=0, elem_id="seed"
                )
                again = gr.Button("Draw the six again", elem_id="again")
                another = gr.Button("Six from another seed", elem_id="another")
            self._own_sentence()
            self.words_here = gr.HTML(elem_id="words-here", label="Words here")
            self._others()
            chosen = another.click(self.another_seed, None, self._seed, **PRIVATE)
            self.drawn = [
                again.click(told(self.draw_gallery), self._seed, self._pictures, api_name="draw_gallery", **MODEL),
                self.draw_after(chosen),
            ]

    def draw_after(self, event: Any) -> Any:
        """Draw the six after an event, from the seed that is shown; return the event of that."""
        return event.success(told(self.draw_gallery), self._seed, self._pictures, api_visibility="private", **MODEL)

    def forget_own_after(self, event: Any) -> None:
        """Take one's own picture away after an event: it is of another word now."""
        event.success(lambda: None, None, self._own, **PRIVATE)

    def draw_gallery(self, seed: float | None, request: gr.Request) -> Iterator[list[tuple[str, str]]]:
        """Draw the sentences of the gallery, one after another."""
        visit, drawn = self.visit(request), []
        number = drawing.checked_seed(seed)
        prompts = drawing.filled(visit, self.settings.prompts)
        for prompt, picture in zip(prompts, self._draw(drawing.sources_of(visit), prompts, number), strict=True):
            visit.gallery_seed = number
            drawn.append((visit.show(picture, "gallery"), prompt))
            yield drawn

    def draw(self, prompt: str, seed: float | None, request: gr.Request) -> str:
        """Draw a prompt of one's own."""
        visit = self.visit(request)
        prompts, number = drawing.filled(visit, [prompt]), drawing.checked_seed(seed)
        (picture,) = self._draw(drawing.sources_of(visit), prompts, number)
        return visit.show(picture, "picture")

    def another_seed(self) -> int:
        """Return a seed at random."""
        return random.randrange(2**32)

    def add_file(self, path: str | None, request: gr.Request) -> str:
        """Add a further word from a file; returns all words, as HTML."""
        visit = self.visit(request)
        if path is not None:
            visit.uploads.add(Path(path))
        drawing.add_file(self.settings, visit, path)
        return fragments.words_here(list(drawing.sources_of(visit)))

    def add_from_hub(self, repo_id: str, request: gr.Request) -> str:
        """Add a further word from the Hub; returns all words, as HTML."""
        visit = self.visit(request)
        drawing.add_from_hub(self.settings, visit, repo_id)
        return fragments.words_here(list(drawing.sources_of(visit)))

    def remove_others(self, request: gr.Request) -> str:
        """Remove the further words; returns those that are left, as HTML."""
        visit = self.visit(request)
        visit.others.clear()
        return fragments.words_here(list(drawing.sources_of(visit)))

    def _own_sentence(self) -> None:
        with gr.Row():
            with gr.Column(scale=3, min_width=280):
                prompt = gr.Textbox(
                    label="Your own sentence",
                    info="Write the word, or {} in its place.",
                    placeholder="a photo of a {} on the moon",
                    lines=3,
                    elem_id="prompt",
                )
                go = gr.Button("Draw it", variant="primary", elem_id="draw")
            with gr.Column(scale=2, min_width=240):
                self._own = gr.Image(
                    label="Your sentence, drawn",
                    interactive=False,
                    type="filepath",
                    format="png",
                    height=280,
                    buttons=["download", "fullscreen"],
                    elem_id="own",
                    alt_text="The picture of your sentence",
                )
        for trigger in (go.click, prompt.submit):
            name: dict[str, Any] = {"api_name": "draw"} if trigger == go.click else {"api_visibility": "private"}
            trigger(told(self.draw), [prompt, self._seed], self._own, **name, **MODEL)

    def _others(self) -> None:
        with gr.Accordion("Use several words in one picture", open=False):
            gr.HTML('<p class="hint">Add words that were learned before, here or in other programs.</p>')
            with gr.Row():
                file = gr.File(label="A file", file_types=[".safetensors", ".pt", ".bin"], type="filepath", height=140)
                with gr.Column():
                    repo = gr.Textbox(label="Or its id on the Hub", placeholder="user/mug")
                    with gr.Row():
                        add = gr.Button("Add from the Hub", size="sm")
                        remove = gr.Button("Remove all of them", size="sm")
            file.upload(told(self.add_file), file, self.words_here, api_name="add_file", **MODEL)
            add.click(told(self.add_from_hub), repo, self.words_here, api_name="add_from_hub", **MODEL)
            remove.click(told(self.remove_others), None, self.words_here, api_name="remove_others", **AT_ONCE)


def _drawer_of(settings: StudioSettings) -> Callable[..., Iterator[Image.Image]]:
    def draw(sources: dict[str, Path | str], prompts: list[str], seed: int) -> Iterator[Image.Image]:
        yield from drawing.draw(settings, sources, prompts, seed)

    return draw
