"""The page: five steps from a picture to a word, and which action each button calls; here the first three."""

from pathlib import Path
from typing import Any

import gradio as gr

from ..config import SupremeInitConfig
from .actions import Actions, told
from .calls import AT_ONCE, EYES, MODEL, PRIVATE, heading
from .pointing import MEANINGS
from .results import gallery_step, home_step
from .settings import MORE_STEPS, NUM_PREVIEWS, StudioSettings
from .visits import Visits
from .words import DEFAULT_NAME

STYLE = Path(__file__).with_name("style.css")
HEAD = """<script>
// Gradio names its empty frames without a role, which screen readers then leave out.
new MutationObserver(() => document.querySelectorAll(".empty[aria-label]:not([role])")
    .forEach((frame) => frame.setAttribute("role", "img")))
    .observe(document.documentElement, { childList: true, subtree: true });
</script>"""
_UPLOADS_NOBODY_OPENED = (3600, 86400)
"""How often, and after how long, files go that no visit knows of, in seconds."""
TITLE = "The studio: show a picture, get a word"


def build_page(settings: StudioSettings, visits: Visits) -> gr.Blocks:
    """Return the page.

    Args:
        settings: What the studio works with.
        visits: The list of visitors, which the page keeps.
    """
    actions = Actions(settings, visits)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=_UPLOADS_NOBODY_OPENED) as page:
        gr.HTML(
            "<h1>Show a picture, get a word</h1><p>Point at something in a photo. The model learns a word for it, and "
            "from then on draws it wherever you like.</p>",
            elem_classes="intro",
        )
        picture = _picture_step(settings, actions)
        words = _words_step(actions)
        training = _training_step(settings, actions, words)
        gallery = gallery_step(actions)
        home = home_step(settings, actions, gallery["words_here"])
        for chosen in picture["chosen"]:
            chosen.success(_both_visible, None, [words["section"], training["section"]], **PRIVATE)
        for number, learned in enumerate(training["learned"]):
            taking: dict[str, Any] = {"api_name": "take_home"} if number == 0 else {"api_visibility": "private"}
            later = learned.success(_both_visible, None, [gallery["section"], home["section"]], **PRIVATE)
            later = later.success(told(actions.take_home), None, home["shown"], **taking, **AT_ONCE)
            later = later.success(told(actions.download), home["program"], home["file"], **PRIVATE)
            later.success(
                told(actions.draw_gallery), gallery["seed"], gallery["pictures"], **MODEL, api_visibility="private"
            )
        page.unload(actions.leave)
    return page


def _picture_step(settings: StudioSettings, actions: Actions) -> dict[str, Any]:
    with gr.Column(elem_classes="step"):
        heading(1, "Choose a picture, and click on the thing")
        with gr.Row():
            with gr.Column(scale=3, min_width=300):
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
        examples = _examples(settings)
        shown = [picture, crop, found, mask]
        chosen = [
            picture.upload(told(actions.open_picture), picture, shown, api_name="open_picture", **EYES),
            *(
                button.click(told(actions.open_example), gr.State(number), shown, api_visibility="private", **EYES)
                for number, button in enumerate(examples)
            ),
        ]
        picture.clear(told(actions.forget_picture), None, shown[1:], api_name="forget_picture", **AT_ONCE)
        picture.select(
            told(actions.click),
            meaning,
            shown,
            show_progress_on=crop,
            api_visibility="private",
            trigger_mode="multiple",  # nobody waits between two clicks
            **EYES,
        )
        for trigger in (add.click, where.submit):
            name: dict[str, Any] = {"api_name": "add_point"} if trigger == add.click else {"api_visibility": "private"}
            trigger(told(actions.add_point), [where, meaning], shown, show_progress_on=crop, **name, **EYES)
        undo.click(told(actions.undo_point), None, shown, show_progress_on=crop, api_name="undo_point", **EYES)
        clear.click(told(actions.clear_points), None, shown, show_progress_on=crop, api_name="clear_points", **EYES)
    return {"chosen": chosen}


def _examples(settings: StudioSettings) -> list[gr.Button]:
    if not settings.examples:
        return []
    gr.HTML('<p class="hint">No photo at hand? Try one of these:</p>')
    with gr.Row(elem_classes="examples"):
        return [
            gr.Button(path.stem.replace("_", " "), icon=path, size="lg", min_width=120, elem_id=f"example-{path.stem}")
            for path in settings.examples
        ]


def _words_step(actions: Actions) -> dict[str, Any]:
    with gr.Column(elem_classes="step", visible=False) as section:
        heading(2, "Describe it")
        find = gr.Button("Find words for it", variant="primary", elem_id="find")
        candidates = gr.Radio(
            [], label="What the models see; a lower loss fits better", visible=False, elem_id="candidates"
        )
        sure = gr.HTML(elem_classes="hint", elem_id="sure", label="How sure the choice is")
        text = gr.Textbox(
            label="The words to start from",
            info="Take the ones found, change them, or write your own.",
            placeholder="a red mug",
            elem_id="words",
        )
        pieces = gr.HTML(elem_id="pieces", label="Pieces")
        name = gr.Textbox(
            label="Name of the new word",
            info="You will write it in prompts, in angle brackets.",
            value=DEFAULT_NAME,
            elem_id="name",
        )
        find.click(
            told(actions.find_words), None, [candidates, text, name, sure, pieces], api_name="find_words", **MODEL
        )
        text.input(
            told(actions.read_words),
            text,
            pieces,
            api_name="read_words",
            show_progress="hidden",
            trigger_mode="always_last",
            **AT_ONCE,
        )
        candidates.input(lambda chosen: chosen, candidates, text, **PRIVATE).then(
            told(actions.read_words), text, pieces, **PRIVATE
        )
    return {"section": section, "text": text, "name": name}


def _training_step(settings: StudioSettings, actions: Actions, words: dict[str, Any]) -> dict[str, Any]:
    defaults = SupremeInitConfig(**settings.training)
    with gr.Column(elem_classes="step", visible=False) as section:
        heading(3, "Let the model learn it")
        steps = gr.Slider(1, 300, value=100, step=1, label="Steps", info="100 usually suffice.", elem_id="steps")
        with gr.Accordion("Advanced", open=False):
            with gr.Row():
                preview_every = gr.Number(20, label="Look every … steps", precision=0, elem_id="every")
                rate = gr.Number(None, label="Learning rate", info="Empty: what suits the model.")
                batch = gr.Number(defaults.train_batch_size, label="Samples per step", precision=0)
            with gr.Row():
                around = gr.Slider(
                    0,
                    1,
                    value=0.25,
                    step=0.05,
                    label="How much the surroundings count",
                    info="If you clicked on a thing.",
                )
                seed = gr.Number(0, label="Seed", precision=0)
        with gr.Row():
            start = gr.Button("Learn it", variant="primary", elem_id="learn")
            more = gr.Button(f"{MORE_STEPS} more steps", visible=False, elem_id="more")
            stop = gr.Button("Stop, and keep what is there", variant="stop", visible=False, elem_id="stop")
        with gr.Column(visible=False) as watching:
            progress = gr.HTML(elem_id="progress", label="Progress", min_height=72)
            gr.HTML('<p class="hint">Drag the line: left of it what the words alone give, right what was learned.</p>')
            with gr.Row():
                pairs = [
                    gr.ImageSlider(
                        label=f"Before and after, {number + 1}",
                        interactive=False,
                        type="filepath",
                        buttons=[],
                        elem_id=f"pair-{number}",
                        elem_classes="pair",
                        min_width=220,
                    )
                    for number in range(NUM_PREVIEWS)
                ]
            curve = gr.HTML(elem_id="curve", label="Curve")
        record = gr.JSON(visible=False, label="Record")
        shown = [record, progress, curve, *pairs]
        asked = [words["name"], words["text"], steps, preview_every, rate, batch, around, seed]
        options: dict[str, Any] = {"show_progress": "full", "show_progress_on": progress, **MODEL}
        buttons = [watching, start, more, stop]
        for button in (start, more):  # before the long call: the page makes the calls of a click one after the other
            button.click(lambda: _buttons(is_learning=True), None, buttons, **PRIVATE, **AT_ONCE)
        learned = [
            start.click(told(actions.learn), asked, shown, api_name="learn", **options),
            more.click(told(actions.learn_more), None, shown, api_name="learn_more", **options),
        ]
        for event in learned:
            event.success(lambda: _buttons(is_learning=False), None, buttons, **PRIVATE)
            event.failure(lambda: _buttons(is_learning=False, can_go_on=None), None, buttons, **PRIVATE)
        stop.click(told(actions.stop), None, None, api_name="stop", show_progress="hidden", **AT_ONCE)
    return {"section": section, "learned": learned}


def _buttons(*, is_learning: bool, can_go_on: bool | None = True) -> list[Any]:
    """Return which of the watched part, "Learn it", "more steps" and "Stop" are there; None: as it was."""
    more = gr.update() if can_go_on is None else gr.update(visible=can_go_on and not is_learning)
    return [gr.update(visible=True), gr.update(visible=not is_learning), more, gr.update(visible=is_learning)]


def _both_visible() -> list[Any]:
    return [gr.update(visible=True)] * 2
