"""The page: five steps from a picture to a word, and which action each button calls."""

from pathlib import Path
from typing import Any

import gradio as gr

from ..config import SupremeInitConfig
from .actions import Actions, told
from .home import PROGRAMS
from .pointing import MEANINGS
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
TITLE = "The studio: show a picture, get a word"

_MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
"""Of calls that need the pipeline: one at a time, and the others see their place in the queue."""
_EYES: dict[str, Any] = {"concurrency_id": "eyes", "concurrency_limit": 1}
"""Of calls that need the segmenter, which also answers while somebody trains."""
_AT_ONCE: dict[str, Any] = {"concurrency_limit": None}
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def build_page(settings: StudioSettings, visits: Visits) -> gr.Blocks:
    """Return the page.

    Args:
        settings: What the studio works with.
        visits: The list of visitors, which the page keeps.
    """
    actions = Actions(settings, visits)
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=False) as page:
        gr.HTML(
            "<h1>Show a picture, get a word</h1><p>Point at something in a photo. The model learns a word for it, and "
            "from then on draws it wherever you like.</p>",
            elem_classes="intro",
        )
        picture = _picture_step(settings, actions)
        words = _words_step(actions)
        training = _training_step(settings, actions, words)
        gallery = _gallery_step(settings, actions)
        home = _home_step(settings, actions, gallery["words_here"])
        for chosen in picture["chosen"]:
            chosen.success(_both_visible, None, [words["section"], training["section"]], **_PRIVATE)
        for number, learned in enumerate(training["learned"]):
            taking: dict[str, Any] = {"api_name": "take_home"} if number == 0 else {"api_visibility": "private"}
            later = learned.success(_both_visible, None, [gallery["section"], home["section"]], **_PRIVATE)
            later = later.success(told(actions.take_home), None, home["shown"], **taking, **_AT_ONCE)
            later = later.success(told(actions.download), home["program"], home["file"], **_PRIVATE)
            later.success(
                told(actions.draw_gallery), gallery["seed"], gallery["pictures"], **_MODEL, api_visibility="private"
            )
        page.unload(actions.leave)
    return page


def _picture_step(settings: StudioSettings, actions: Actions) -> dict[str, Any]:
    with gr.Column(elem_classes="step"):
        _heading(1, "Choose a picture, and click on the thing")
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
            picture.upload(told(actions.open_picture), picture, shown, api_name="open_picture", **_EYES),
            *(
                button.click(told(actions.open_example), gr.State(number), shown, api_visibility="private", **_EYES)
                for number, button in enumerate(examples)
            ),
        ]
        picture.clear(told(actions.forget_picture), None, shown[1:], api_name="forget_picture", **_AT_ONCE)
        picture.select(
            told(actions.click),
            meaning,
            shown,
            show_progress_on=crop,
            api_visibility="private",
            trigger_mode="multiple",  # nobody waits between two clicks
            **_EYES,
        )
        for trigger in (add.click, where.submit):
            name: dict[str, Any] = {"api_name": "add_point"} if trigger == add.click else {"api_visibility": "private"}
            trigger(told(actions.add_point), [where, meaning], shown, show_progress_on=crop, **name, **_EYES)
        undo.click(told(actions.undo_point), None, shown, show_progress_on=crop, api_name="undo_point", **_EYES)
        clear.click(told(actions.clear_points), None, shown, show_progress_on=crop, api_name="clear_points", **_EYES)
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
        _heading(2, "Describe it")
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
            told(actions.find_words), None, [candidates, text, name, sure, pieces], api_name="find_words", **_MODEL
        )
        text.input(
            told(actions.read_words),
            text,
            pieces,
            api_name="read_words",
            show_progress="hidden",
            trigger_mode="always_last",
            **_AT_ONCE,
        )
        candidates.input(lambda chosen: chosen, candidates, text, **_PRIVATE).then(
            told(actions.read_words), text, pieces, **_PRIVATE
        )
    return {"section": section, "text": text, "name": name}


def _training_step(settings: StudioSettings, actions: Actions, words: dict[str, Any]) -> dict[str, Any]:
    defaults = SupremeInitConfig(**settings.training)
    with gr.Column(elem_classes="step", visible=False) as section:
        _heading(3, "Let the model learn it")
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
            progress = gr.HTML(elem_id="progress", label="Progress")
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
        options: dict[str, Any] = {"show_progress": "minimal", "show_progress_on": progress, **_MODEL}
        buttons = [watching, start, more, stop]
        for button in (start, more):  # before the long call: the page makes the calls of a click one after the other
            button.click(lambda: _buttons(is_learning=True), None, buttons, **_PRIVATE, **_AT_ONCE)
        learned = [
            start.click(told(actions.learn), asked, shown, api_name="learn", **options),
            more.click(told(actions.learn_more), None, shown, api_name="learn_more", **options),
        ]
        for event in learned:
            event.success(lambda: _buttons(is_learning=False), None, buttons, **_PRIVATE)
            event.failure(lambda: _buttons(is_learning=False, can_go_on=None), None, buttons, **_PRIVATE)
        stop.click(told(actions.stop), None, None, api_name="stop", show_progress="hidden", **_AT_ONCE)
    return {"section": section, "learned": learned}


def _gallery_step(settings: StudioSettings, actions: Actions) -> dict[str, Any]:
    with gr.Column(elem_classes="step", visible=False) as section:
        _heading(4, "Look what it can do now")
        pictures = gr.Gallery(
            label="Six sentences with the word",
            columns=3,
            height="auto",
            object_fit="contain",
            interactive=False,
            format="png",
            elem_id="gallery",
            buttons=["download", "fullscreen"],
        )
        with gr.Row(elem_classes="low"):
            seed = gr.Number(
                0, label="Seed", info="The same seed draws the same picture.", precision=0, elem_id="seed"
            )
            another = gr.Button("Another seed", elem_id="another")
            again = gr.Button("Draw the six again", elem_id="again")
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
                own = gr.Image(
                    label="Your sentence, drawn",
                    interactive=False,
                    type="filepath",
                    format="png",
                    height=280,
                    buttons=["download", "fullscreen"],
                    elem_id="own",
                    alt_text="The picture of your sentence",
                )
        words_here = gr.HTML(elem_id="words-here", label="Words here")
        _others(actions, words_here)
        another.click(actions.another_seed, None, seed, **_PRIVATE)
        again.click(told(actions.draw_gallery), seed, pictures, api_name="draw_gallery", **_MODEL)
        for trigger in (go.click, prompt.submit):
            name: dict[str, Any] = {"api_name": "draw"} if trigger == go.click else {"api_visibility": "private"}
            trigger(told(actions.draw), [prompt, seed], own, **name, **_MODEL)
    return {"section": section, "pictures": pictures, "seed": seed, "words_here": words_here}


def _others(actions: Actions, words_here: gr.HTML) -> None:
    with gr.Accordion("Use several words in one picture", open=False):
        gr.HTML('<p class="hint">Add words that were learned before, here or in other programs.</p>')
        with gr.Row():
            file = gr.File(label="A file", file_types=[".safetensors", ".pt", ".bin"], type="filepath", height=140)
            with gr.Column():
                repo = gr.Textbox(label="Or its id on the Hub", placeholder="user/mug")
                with gr.Row():
                    add = gr.Button("Add from the Hub", size="sm")
                    remove = gr.Button("Remove all of them", size="sm")
        file.upload(told(actions.add_file), file, words_here, api_name="add_file", **_MODEL)
        add.click(told(actions.add_from_hub), repo, words_here, api_name="add_from_hub", **_MODEL)
        remove.click(told(actions.remove_others), None, words_here, api_name="remove_others", **_AT_ONCE)


def _home_step(settings: StudioSettings, actions: Actions, words_here: gr.HTML) -> dict[str, Any]:
    with gr.Column(elem_classes="step", visible=False) as section:
        _heading(5, "Take it home")
        told_cost = gr.HTML(elem_id="cost", label="Cost, for reading")
        with gr.Row(equal_height=False):
            with gr.Column(min_width=260):
                program = gr.Dropdown(
                    [one.name for one in PROGRAMS],
                    value=PROGRAMS[0].name,
                    label="For which program?",
                    elem_id="program",
                )
                file = gr.DownloadButton("Download", variant="primary", elem_id="download")
                usage = gr.HTML(elem_classes="hint", elem_id="usage", label="What to do with the file")
            with gr.Column(min_width=260):
                make = gr.Button("Write a report", elem_id="make-report")
                report = gr.DownloadButton("Download the report", visible=False, elem_id="report")
                gr.HTML('<p class="hint">Everything on one page: pictures, losses, words, settings.</p>')
        spent = gr.JSON(visible=False, label="Cost")
        code = gr.Code(
            label="Use it in Python",
            language="python",
            interactive=False,
            wrap_lines=True,
            show_line_numbers=False,
            elem_id="code",
        )
        _publishing(settings, actions)
        shown = [spent, told_cost, code, words_here]
        program.input(told(actions.download), program, [file, usage], api_name="download", **_AT_ONCE)
        make.click(told(actions.report), None, report, api_name="report", show_progress_on=make, **_MODEL)
    return {"section": section, "shown": shown, "program": program, "file": [file, usage]}


def _publishing(settings: StudioSettings, actions: Actions) -> None:
    with gr.Accordion("Publish it on the Hugging Face Hub", open=False):
        gr.HTML('<p class="hint">The word and a card that tells how it was made; your photo stays with you.</p>')
        if settings.login == "space":
            gr.LoginButton()
        with gr.Row():
            repo = gr.Textbox(label="Your name and the word’s", placeholder="user/mug", elem_id="repo")
            private = gr.Checkbox(True, label="Only I can see it")
            replace = gr.Checkbox(False, label="Replace what is there")
        token = gr.Textbox(
            label="Your access token, with the right to write",
            type="password",
            visible=settings.login == "token",
            info="Used once, never kept.",
        )
        go = gr.Button("Publish")
        published = gr.HTML(elem_id="published", label="Where it was published")
        asked = [repo, private, replace]
        if settings.login == "space":
            go.click(told(actions.push_logged_in), asked, published, api_name="push", **_AT_ONCE)
        else:
            go.click(told(actions.push), [*asked, token], published, api_name="push", **_AT_ONCE)


def _buttons(*, is_learning: bool, can_go_on: bool | None = True) -> list[Any]:
    """Return which of the watched part, "Learn it", "more steps" and "Stop" are there; None: as it was."""
    more = gr.update() if can_go_on is None else gr.update(visible=can_go_on and not is_learning)
    return [gr.update(visible=True), gr.update(visible=not is_learning), more, gr.update(visible=is_learning)]


def _heading(number: int, text: str) -> None:
    gr.HTML(f'<h2><span class="number">{number}</span>{text}</h2>')


def _both_visible() -> list[Any]:
    return [gr.update(visible=True)] * 2
