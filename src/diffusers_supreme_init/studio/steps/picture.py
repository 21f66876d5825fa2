"""Step 1: choose a picture, and click on the thing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from .. import fragments, pointing
from ..calls import AT_ONCE, EYES, Step, heading, told
from ..messages import VisitorError
from ..pointing import MEANINGS
from ..settings import StudioSettings
from ..visits import Visit, Visits


class PictureStep(Step):
    """The picture, and what is meant in it.

    Attributes:
        opened: Events of a picture that was taken.
        forgotten: The event of a picture that was taken away.
        moved: Events of another selection in the same picture.
    """

    def __init__(self, settings: StudioSettings, visits: Visits) -> None:
        """Lay it out."""
        super().__init__(settings, visits)
        self._point = settings.on_gpu(_pointer_of(settings))
        with gr.Column(elem_classes="step"):
            heading(1, "Choose a picture, and click on the thing")
            with gr.Row():
                with gr.Column(scale=3, min_width=300):
                    picture = _picture()
                with gr.Column(scale=2, min_width=260):
                    meaning = gr.Radio(list(MEANINGS), value="this", label="A click marks", elem_id="meaning")
                    with gr.Row(elem_classes="keep"):
                        undo = gr.Button("Undo", size="sm")
                        clear = gr.Button("Clear", size="sm")
                    found = gr.HTML(elem_classes="found", elem_id="found", label="What was found")
                    crop = gr.Image(
                        label="What will be learned",
                        interactive=False,
                        height=200,
                        buttons=[],
                        elem_id="crop",
                        alt_text="The part of your picture that will be learned",
                        type="filepath",
                    )
                    with gr.Accordion("Type a point instead", open=False):
                        where = gr.Textbox(
                            label="Pixels from the left, from the top", placeholder="412, 230", elem_id="where"
                        )
                        add = gr.Button("Add point", size="sm")
            mask = gr.Image(label="Mask", visible=False, type="filepath")
            examples = self._examples()
            shown = [picture, crop, found, mask]
            private: dict[str, Any] = {"api_visibility": "private", **EYES}
            self.opened = [
                picture.upload(told(self.open_picture), picture, shown, api_name="open_picture", **EYES),
                *(
                    button.click(told(self.open_example), gr.State(number), shown, **private)
                    for number, button in enumerate(examples)
                ),
            ]
            self.forgotten = picture.clear(
                told(self.forget_picture), None, shown[1:], api_name="forget_picture", **AT_ONCE
            )
            on_crop: dict[str, Any] = {"show_progress_on": crop}
            typed = [where, meaning]
            self.moved = [
                # "multiple": nobody waits between two clicks.
                picture.select(told(self.click), meaning, shown, trigger_mode="multiple", **on_crop, **private),
                add.click(told(self.add_point), typed, shown, api_name="add_point", **on_crop, **EYES),
                where.submit(told(self.add_point), typed, shown, **on_crop, **private),
                undo.click(told(self.undo_point), None, shown, api_name="undo_point", **on_crop, **EYES),
                clear.click(told(self.clear_points), None, shown, api_name="clear_points", **on_crop, **EYES),
            ]

    def open_picture(self, path: str | None, request: gr.Request) -> tuple[Any, ...]:
        """Take a picture: overview, crop, sentences, mask."""
        visit = self.visit(request)
        if path is not None:
            visit.uploads.add(Path(path))
        pointing.open_upload(visit, path)
        return self._show_region(visit)

    def open_example(self, number: int, request: gr.Request) -> tuple[Any, ...]:
        """Take one of the examples."""
        if not (isinstance(number, int) and 0 <= number < len(self.settings.examples)):
            raise VisitorError(f"There are {len(self.settings.examples)} examples.")
        visit = self.visit(request)
        pointing.open_upload(visit, str(self.settings.examples[number]))
        return self._show_region(visit)

    def forget_picture(self, request: gr.Request) -> tuple[Any, ...]:
        """Begin again without a picture."""
        pointing.forget_picture(self.visit(request))
        return None, "", None

    def click(self, meaning: str, event: gr.SelectData, request: gr.Request) -> tuple[Any, ...]:
        """Add a click on the overview."""
        visit = self.visit(request)
        x, y = event.index
        return self._add(visit, *pointing.on_true_scale(visit, x, y), meaning)

    def add_point(self, where: str, meaning: str, request: gr.Request) -> tuple[Any, ...]:
        """Add a point that was typed, ``"412, 230"``, in pixels of the picture."""
        return self._add(self.visit(request), *pointing.read_point(where), meaning)

    def undo_point(self, request: gr.Request) -> tuple[Any, ...]:
        """Take the last point back."""
        visit = self.visit(request)
        del visit.clicks[-1:]
        return self._show_region(visit)

    def clear_points(self, request: gr.Request) -> tuple[Any, ...]:
        """Take all points back: the whole picture is meant."""
        visit = self.visit(request)
        visit.clicks.clear()
        return self._show_region(visit)

    def _examples(self) -> list[gr.Button]:
        if not self.settings.examples:
            return []
        gr.HTML('<p class="hint">No photo at hand? Try one of these:</p>')
        with gr.Row(elem_classes="examples"):
            return [
                gr.Button(
                    path.stem.replace("_", " "), icon=path, size="lg", min_width=120, elem_id=f"example-{path.stem}"
                )
                for path in self.settings.examples
            ]

    def _add(self, visit: Visit, x: float, y: float, meaning: str) -> tuple[Any, ...]:
        pointing.add_click(visit, x, y, meaning)
        try:
            return self._show_region(visit)
        except Exception:
            del visit.clicks[-1:]  # a click that selects nothing is taken back
            raise

    def _show_region(self, visit: Visit) -> tuple[Any, ...]:
        mask, pointed = self._point(pointing.picture_of(visit), tuple(visit.clicks))
        visit.mask = mask
        visit.forget_words()
        white = None if pointed.mask is None else visit.show(pointed.mask, "mask")
        overview, crop = visit.show(pointed.overview, "picture"), visit.show(pointed.crop, "crop")
        return overview, crop, fragments.sentences(pointed.told), white


def _picture() -> gr.Image:
    picture = gr.Image(
        label="Your picture",
        sources=["upload", "clipboard"],
        type="filepath",
        image_mode=None,
        height=420,
        buttons=[],
        elem_id="picture",
        alt_text="Your picture, with the clicks and what was found",
        placeholder="Drop a photo here, or click to choose one",
    )
    # The file as it was uploaded. Gradio would decode it first, and fail without a sentence.
    picture.preprocess = lambda payload: None if payload is None else payload.path  # type: ignore[method-assign]
    return picture


def _pointer_of(settings: StudioSettings) -> Callable[..., Any]:
    def point(picture: Image.Image, clicks: tuple[Any, ...]) -> Any:
        return pointing.point(settings, picture, clicks)

    return point
