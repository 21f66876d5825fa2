"""Step 2: the words to start from, and a name for the new word."""

from collections.abc import Callable
from typing import Any

import gradio as gr
from PIL import Image

from .. import fragments, pointing, words
from ..calls import AT_ONCE, MODEL, PRIVATE, Step, heading, told
from ..settings import StudioSettings
from ..visits import Visits
from ..words import DEFAULT_NAME


class WordsStep(Step):
    """What the models see, and what the visitor makes of it.

    Attributes:
        section: The step, hidden until there is a picture.
        text: The words to start from.
        name: The name of the new word.
    """

    def __init__(self, settings: StudioSettings, visits: Visits) -> None:
        """Lay it out."""
        super().__init__(settings, visits)
        self._find = settings.on_gpu(_finder_of(settings))
        with gr.Column(elem_classes="step", visible=False) as self.section:
            heading(2, "Describe it")
            find = gr.Button("Find words for it", variant="primary", elem_id="find")
            self._candidates = gr.Radio(
                [], label="What the models see; a lower loss fits better", visible=False, elem_id="candidates"
            )
            self._sure = gr.HTML(elem_classes="hint", elem_id="sure", label="How sure the choice is")
            self.text = gr.Textbox(
                label="The words to start from",
                info="Take the ones found, change them, or write your own.",
                placeholder="a red mug",
                elem_id="words",
            )
            self._pieces = gr.HTML(elem_id="pieces", label="Pieces")
            self.name = gr.Textbox(
                label="Name of the new word",
                info="You will write it in prompts, in angle brackets.",
                value=DEFAULT_NAME,
                elem_id="name",
            )
            self._shown = [self._candidates, self.text, self.name, self._sure, self._pieces]
            find.click(told(self.find_words), None, self._shown, api_name="find_words", **MODEL)
            self.text.input(
                told(self.read_words),
                self.text,
                self._pieces,
                api_name="read_words",
                show_progress="hidden",
                trigger_mode="always_last",
                **AT_ONCE,
            )
            self._candidates.input(lambda chosen: chosen, self._candidates, self.text, **PRIVATE).then(
                told(self.read_words), self.text, self._pieces, **PRIVATE
            )

    def find_words(self, request: gr.Request) -> tuple[Any, ...]:
        """Ask for words: the candidates, the words, a name, how sure the choice is, the pieces."""
        visit = self.visit(request)
        picture, mask = pointing.picture_of(visit), visit.mask
        proposal, notices = self._find(picture, mask)
        visit.proposal = proposal
        choices = [(_candidate_label(one), one.text) for one in proposal.candidates]
        sure = fragments.sentences([*words.how_sure(proposal), *notices])
        radio = gr.update(choices=choices, value=proposal.text, visible=True)
        return radio, proposal.text, words.proposed_name(proposal), sure, self._chips(proposal.text)

    def read_words(self, text: str) -> str:
        """Return the pieces that words become, as HTML."""
        return self._chips(text)

    def begin_anew_after(self, event: Any) -> None:
        """Forget all words after an event that makes them words of another thing."""
        event.success(lambda: (*_NO_CANDIDATES, "", "", DEFAULT_NAME), None, self._after, **PRIVATE)

    def ask_again_after(self, event: Any) -> None:
        """Forget words that were found after an event that selects another thing; those that were typed stay."""
        event.success(told(self._ask_again), self.text, self._after, **PRIVATE, **AT_ONCE)

    @property
    def _after(self) -> list[Any]:
        return [self._candidates, self._sure, self._pieces, self.text, self.name]

    def _ask_again(self, text: str, request: gr.Request) -> tuple[Any, ...]:
        if text in self.visit(request).outdated_words:
            return *_NO_CANDIDATES, "", "", DEFAULT_NAME
        return *_NO_CANDIDATES, gr.update(), gr.update(), gr.update()

    def _chips(self, text: str) -> str:
        return fragments.chips(words.read_words(self.settings, text) if text.strip() else None)


_NO_CANDIDATES = (gr.update(choices=[], value=None, visible=False), "")
"""Updates of the candidates, and of how sure the choice is."""


def _candidate_label(candidate: Any) -> str:
    source = {"class": "classifier", "caption": "captioner", "refined caption": "refiner"}.get(candidate.source, "you")
    loss = f" · loss {candidate.loss:.4f}" if candidate.loss is not None else ""
    cut = f" · {candidate.num_cut} pieces cut" if candidate.num_cut else ""
    return f"{candidate.text}{loss} · {source}{cut}"


def _finder_of(settings: StudioSettings) -> Callable[..., Any]:
    def find(picture: Image.Image, mask: Any) -> Any:
        return words.find_words(settings, picture, mask)

    return find
