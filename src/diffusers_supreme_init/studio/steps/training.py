"""Step 3: let the model learn the word, and watch it."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from ...config import SupremeInitConfig
from .. import fragments, home
from ..calls import AT_ONCE, MODEL, PRIVATE, Step, heading, told
from ..learning import Watched, learn, prepare
from ..lessons import trainer_of
from ..messages import VisitorError
from ..settings import MAX_STEPS, MORE_STEPS, NUM_PREVIEWS, StudioSettings
from ..visits import Learned, Visit, Visits
from .words import WordsStep


class TrainingStep(Step):
    """Training: asked for, watched, stopped, and gone on with.

    Attributes:
        section: The step, hidden until there is a picture.
        learned: Events of a word that was learned.
    """

    def __init__(self, settings: StudioSettings, visits: Visits, words: WordsStep) -> None:
        """Lay it out."""
        super().__init__(settings, visits)
        self._train = settings.on_gpu(trainer_of(settings))
        with gr.Column(elem_classes="step", visible=False) as self.section:
            heading(3, "Let the model learn it")
            steps = gr.Slider(1, 300, value=100, step=1, label="Steps", info="100 usually suffice.", elem_id="steps")
            asked = [words.name, words.text, steps, *_advanced(settings)]
            with gr.Row():
                start = gr.Button("Learn it", variant="primary", elem_id="learn")
                more = gr.Button(f"{MORE_STEPS} more steps", visible=False, elem_id="more")
                stop = gr.Button("Stop, and keep what is there", variant="stop", visible=False, elem_id="stop")
            with gr.Column(visible=False) as watching:
                progress = gr.HTML(elem_id="progress", label="Progress", min_height=72)
                gr.HTML(
                    '<p class="hint">Drag the line: left of it what the words alone give, right what was learned.</p>'
                )
                with gr.Row():
                    pairs = [_pair(number) for number in range(NUM_PREVIEWS)]
                curve = gr.HTML(elem_id="curve", label="Curve")
            record = gr.JSON(visible=False, label="Record")
            shown = [record, progress, curve, *pairs]
            options: dict[str, Any] = {"show_progress": "full", "show_progress_on": progress, **MODEL}
            buttons = [watching, start, more, stop]
            for button in (start, more):  # before the long call: the page makes the calls of a click one by one
                button.click(lambda: _buttons(is_learning=True), None, buttons, **PRIVATE, **AT_ONCE)
            self.learned = [
                start.click(told(self.learn), asked, shown, api_name="learn", **options),
                more.click(told(self.learn_more), None, shown, api_name="learn_more", **options),
            ]
            for event in self.learned:
                event.success(lambda: _buttons(is_learning=False), None, buttons, **PRIVATE)
                event.failure(lambda: _buttons(is_learning=False, can_go_on=None), None, buttons, **PRIVATE)
            stop.click(told(self.stop), None, None, api_name="stop", show_progress="hidden", **AT_ONCE)

    def learn(
        self,
        name: str,
        text: str,
        steps: float,
        preview_every: float,
        learning_rate: float | None,
        train_batch_size: float,
        unmasked_weight: float,
        seed: float,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        """Learn a word; yields a record, the progress, the curve and pairs of pictures to compare."""
        visit = self.visit(request)
        run = prepare(
            self.settings,
            visit,
            name=name,
            words=text,
            steps=steps,
            preview_every=preview_every,
            learning_rate=learning_rate,
            train_batch_size=train_batch_size,
            unmasked_weight=unmasked_weight,
            seed=seed,
        )
        yield from self._watch(visit, run, request)

    def learn_more(self, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Go on with the word that was learned, exactly as if it had not stopped."""
        visit = self.visit(request)
        run = home.saved(visit)
        if run.steps + MORE_STEPS > MAX_STEPS:
            raise VisitorError(f"The word has learned for {run.steps} steps, and this page makes at most {MAX_STEPS}.")
        yield from self._watch(visit, run.going_on(run.steps + MORE_STEPS), request)

    def stop(self, request: gr.Request) -> None:
        """End training after its step; what was learned is kept."""
        self.visit(request).stop_file.touch()

    def _watch(self, visit: Visit, run: Learned, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        for watched in learn(self._train, visit, run):
            self.visits.stay(str(request.session_hash))
            yield _watched(watched)


def _advanced(settings: StudioSettings) -> list[Any]:
    defaults = SupremeInitConfig(**settings.training)
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
    return [preview_every, rate, batch, around, seed]


def _pair(number: int) -> gr.ImageSlider:
    return gr.ImageSlider(
        label=f"Before and after, {number + 1}",
        interactive=False,
        type="filepath",
        buttons=[],
        elem_id=f"pair-{number}",
        elem_classes="pair",
        min_width=220,
    )


def _buttons(*, is_learning: bool, can_go_on: bool | None = True) -> list[Any]:
    """Return which of the watched part, "Learn it", "more steps" and "Stop" are there; None: as it was."""
    more = gr.update() if can_go_on is None else gr.update(visible=can_go_on and not is_learning)
    return [gr.update(visible=True), gr.update(visible=not is_learning), more, gr.update(visible=is_learning)]


def _watched(watched: Watched) -> tuple[Any, ...]:
    run = watched.learned
    record = {
        "doing": watched.doing or "Over",
        "step": run.steps,
        "steps": run.target,
        "seconds": round(run.seconds, 2),
        "seconds_left": watched.seconds_left,
        "loss": run.losses[-1] if run.losses else None,
        "token": run.lesson.token,
        "words": run.lesson.words,
        "notices": list(watched.notices),
    }
    pairs: list[Any] = list(zip(run.before, run.after or run.before, strict=True)) or [None] * NUM_PREVIEWS
    return record, fragments.progress(watched), fragments.curve(run.losses), *pairs
