"""The last two steps of the page: pictures of the learned word, and what its visitor takes home."""

from typing import Any

import gradio as gr

from .actions import Actions, told
from .calls import AT_ONCE, MODEL, PRIVATE, heading
from .home import PROGRAMS
from .settings import StudioSettings


def gallery_step(actions: Actions) -> dict[str, Any]:
    """Lay out the pictures of the learned word; return what other steps need of it."""
    with gr.Column(elem_classes="step", visible=False) as section:
        heading(4, "Look what it can do now")
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
        another.click(actions.another_seed, None, seed, **PRIVATE)
        again.click(told(actions.draw_gallery), seed, pictures, api_name="draw_gallery", **MODEL)
        for trigger in (go.click, prompt.submit):
            name: dict[str, Any] = {"api_name": "draw"} if trigger == go.click else {"api_visibility": "private"}
            trigger(told(actions.draw), [prompt, seed], own, **name, **MODEL)
    return {"section": section, "pictures": pictures, "seed": seed, "words_here": words_here}


def home_step(settings: StudioSettings, actions: Actions, words_here: gr.HTML) -> dict[str, Any]:
    """Lay out files, report, code and publishing; return what other steps need of it."""
    with gr.Column(elem_classes="step", visible=False) as section:
        heading(5, "Take it home")
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
        program.input(told(actions.download), program, [file, usage], api_name="download", **AT_ONCE)
        make.click(told(actions.report), None, report, api_name="report", show_progress_on=make, **MODEL)
    return {"section": section, "shown": shown, "program": program, "file": [file, usage]}


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
        file.upload(told(actions.add_file), file, words_here, api_name="add_file", **MODEL)
        add.click(told(actions.add_from_hub), repo, words_here, api_name="add_from_hub", **MODEL)
        remove.click(told(actions.remove_others), None, words_here, api_name="remove_others", **AT_ONCE)


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
            go.click(told(actions.push_logged_in), asked, published, api_name="push", **AT_ONCE)
        else:
            go.click(told(actions.push), [*asked, token], published, api_name="push", **AT_ONCE)
