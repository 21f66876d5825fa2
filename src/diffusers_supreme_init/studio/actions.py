"""What the page calls: each function takes what the visitor gave, and returns what the page shows."""

import functools
import inspect
import random
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from . import drawing, fragments, home, pointing, words
from .learning import learn, prepare
from .lessons import reporter_of, trainer_of
from .messages import VisitorError, sentence_of
from .settings import MAX_STEPS, MORE_STEPS, NUM_PREVIEWS, StudioSettings
from .visits import Visit, Visits


def told(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function, or a generator, raise what gradio shows as a sentence instead of any other error."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generating(*given: Any, **named: Any) -> Iterator[Any]:
            try:
                yield from function(*given, **named)
            except Exception as error:
                raise _shown(error) from error

        return generating

    @functools.wraps(function)
    def returning(*given: Any, **named: Any) -> Any:
        try:
            return function(*given, **named)
        except Exception as error:
            raise _shown(error) from error

    return returning


def _shown(error: Exception) -> gr.Error:
    # Shown as HTML, so tags in what a visitor typed must not become tags of the page.
    return gr.Error(
        escape(sentence_of(error), quote=False), title="That did not work", duration=None, print_exception=False
    )


class Actions:
    """All calls of the page; public methods are its endpoints."""

    def __init__(self, settings: StudioSettings, visits: Visits) -> None:
        """Let all calls share a model and the list of visitors."""
        self._settings, self._visits = settings, visits
        on_gpu = settings.on_gpu
        self._point = on_gpu(_pointer_of(settings))
        self._find = on_gpu(_finder_of(settings))
        self._train = on_gpu(trainer_of(settings))
        self._draw = on_gpu(_drawer_of(settings))
        self._report = on_gpu(reporter_of(settings))

    # 1. the picture

    def open_picture(self, path: str | None, request: gr.Request) -> tuple[Any, ...]:
        """Take a picture: overview, crop, sentences, mask."""
        visit = self._visit(request)
        if path is not None:
            visit.uploads.add(Path(path))
        pointing.open_upload(visit, path)
        return self._show_region(visit)

    def open_example(self, number: int, request: gr.Request) -> tuple[Any, ...]:
        """Take one of the examples."""
        if not (isinstance(number, int) and 0 <= number < len(self._settings.examples)):
            raise VisitorError(f"There are {len(self._settings.examples)} examples.")
        visit = self._visit(request)
        pointing.open_upload(visit, str(self._settings.examples[number]))
        return self._show_region(visit)

    def forget_picture(self, request: gr.Request) -> tuple[Any, ...]:
        """Begin again without a picture."""
        pointing.forget_picture(self._visit(request))
        return None, "", None

    def click(self, meaning: str, event: gr.SelectData, request: gr.Request) -> tuple[Any, ...]:
        """Add a click on the overview."""
        visit = self._visit(request)
        x, y = event.index
        return self._add(visit, *pointing.on_true_scale(visit, x, y), meaning)

    def add_point(self, where: str, meaning: str, request: gr.Request) -> tuple[Any, ...]:
        """Add a point that was typed, ``"412, 230"``, in pixels of the picture."""
        return self._add(self._visit(request), *pointing.read_point(where), meaning)

    def undo_point(self, request: gr.Request) -> tuple[Any, ...]:
        """Take the last point back."""
        visit = self._visit(request)
        del visit.clicks[-1:]
        return self._show_region(visit)

    def clear_points(self, request: gr.Request) -> tuple[Any, ...]:
        """Take all points back: the whole picture is meant."""
        visit = self._visit(request)
        visit.clicks.clear()
        return self._show_region(visit)

    # 2. the words

    def find_words(self, request: gr.Request) -> tuple[Any, ...]:
        """Ask for words: the candidates, the words, a name, how sure the choice is, the pieces."""
        visit = self._visit(request)
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

    def _chips(self, text: str) -> str:
        return fragments.chips(words.read_words(self._settings, text) if text.strip() else None)

    # 3. training

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
        visit = self._visit(request)
        run = prepare(
            self._settings,
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
        for watched in learn(self._train, visit, run):
            yield _watched(watched)

    def learn_more(self, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Go on with the word that was learned, exactly as if it had not stopped."""
        visit = self._visit(request)
        run = home.saved(visit)
        if run.steps + MORE_STEPS > MAX_STEPS:
            raise VisitorError(f"The word has learned for {run.steps} steps, and this page makes at most {MAX_STEPS}.")
        run.target = run.steps + MORE_STEPS
        for watched in learn(self._train, visit, run):
            yield _watched(watched)

    def stop(self, request: gr.Request) -> None:
        """End training after its step; what was learned is kept."""
        self._visit(request).stop_file.touch()

    # 4. the gallery

    def draw_gallery(self, seed: float | None, request: gr.Request) -> Iterator[list[tuple[str, str]]]:
        """Draw the sentences of the gallery, one after another."""
        visit, drawn = self._visit(request), []
        prompts, number = drawing.filled(self._settings, visit, self._settings.prompts), drawing.checked_seed(seed)
        for prompt, picture in zip(prompts, self._draw(drawing.sources_of(visit), prompts, number), strict=True):
            drawn.append((visit.show(picture, "gallery"), prompt))
            yield drawn

    def draw(self, prompt: str, seed: float | None, request: gr.Request) -> str:
        """Draw a prompt of one's own."""
        visit = self._visit(request)
        prompts, number = drawing.filled(self._settings, visit, [prompt]), drawing.checked_seed(seed)
        (picture,) = self._draw(drawing.sources_of(visit), prompts, number)
        return visit.show(picture, "picture")

    def another_seed(self) -> int:
        """Return a seed at random."""
        return random.randrange(2**32)

    def add_file(self, path: str | None, request: gr.Request) -> str:
        """Add a further word from a file; returns all words, as HTML."""
        visit = self._visit(request)
        if path is not None:
            visit.uploads.add(Path(path))
        drawing.add_file(self._settings, visit, path)
        return _words_here(visit)

    def add_from_hub(self, repo_id: str, request: gr.Request) -> str:
        """Add a further word from the Hub; returns all words, as HTML."""
        visit = self._visit(request)
        drawing.add_from_hub(self._settings, visit, repo_id)
        return _words_here(visit)

    def remove_others(self, request: gr.Request) -> str:
        """Remove the further words; returns those that are left, as HTML."""
        visit = self._visit(request)
        visit.others.clear()
        return _words_here(visit)

    # 5. taking it home

    def take_home(self, request: gr.Request) -> tuple[Any, ...]:
        """Return what the word cost as a record and for reading, code, and all words as HTML."""
        visit = self._visit(request)
        lesson, spent = home.saved(visit).lesson, home.cost(visit)
        told_cost = fragments.cost(spent, lesson.token, lesson.words)
        code = home.snippet(self._settings, visit)
        return spent, told_cost, code, _words_here(visit)

    def download(self, program: str, request: gr.Request) -> tuple[Any, ...]:
        """Write the word for a program: the file, and what to do with it."""
        path, usage = home.download(self._visit(request), program)
        label = f"Download {Path(path).name} ({max(1, round(Path(path).stat().st_size / 1000))} kB)"
        return gr.update(value=path, label=label, interactive=True), fragments.sentences([usage])

    def report(self, request: gr.Request) -> Any:
        """Write the report of `supreme-init train`, the same file."""
        visit = self._visit(request)
        run = home.saved(visit)
        path = self._report(run.lesson, visit.folder, run.steps, round(run.seconds, 1))
        return gr.update(value=visit.show_file(path.name, path), visible=True)

    def push(self, repo_id: str, private: bool, replace: bool, token: str, request: gr.Request) -> str:
        """Publish the word with a token of the visitor's, or this machine's login if that is the rule here."""
        return self._push(repo_id, private, replace, token.strip() or None, request)

    def push_logged_in(
        self, repo_id: str, private: bool, replace: bool, request: gr.Request, login: gr.OAuthToken | None
    ) -> str:
        """Publish the word with the login of a visitor of a Space."""
        return self._push(repo_id, private, replace, None if login is None else login.token, request)

    # everybody leaves

    def leave(self, request: gr.Request) -> None:
        """Note that the page was closed."""
        if request.session_hash:
            self._visits.leave(request.session_hash)

    def _push(self, repo_id: str, private: bool, replace: bool, token: str | None, request: gr.Request) -> str:
        url = home.push(self._settings, self._visit(request), repo_id, private=private, replace=replace, token=token)
        return fragments.link(url)

    def _visit(self, request: gr.Request) -> Visit:
        if not request.session_hash:
            raise VisitorError("Calls need a session, as gradio_client and browsers have one.")
        return self._visits.of(request.session_hash)

    def _add(self, visit: Visit, x: float, y: float, meaning: str) -> tuple[Any, ...]:
        pointing.add_click(visit, x, y, meaning)
        try:
            return self._show_region(visit)
        except Exception:
            del visit.clicks[-1:]  # a click that selects nothing is taken back
            raise

    def _show_region(self, visit: Visit) -> tuple[Any, ...]:
        mask, pointed = self._point(pointing.picture_of(visit), tuple(visit.clicks))
        visit.mask, visit.proposal = mask, None
        white = None if pointed.mask is None else visit.show(pointed.mask, "mask")
        overview, crop = visit.show(pointed.overview, "picture"), visit.show(pointed.crop, "crop")
        return overview, crop, fragments.sentences(pointed.told), white


def _pointer_of(settings: StudioSettings) -> Callable[..., Any]:
    def point(picture: Image.Image, clicks: tuple[Any, ...]) -> Any:
        return pointing.point(settings, picture, clicks)

    return point


def _finder_of(settings: StudioSettings) -> Callable[..., Any]:
    def find(picture: Image.Image, mask: Any) -> Any:
        return words.find_words(settings, picture, mask)

    return find


def _drawer_of(settings: StudioSettings) -> Callable[..., Iterator[Image.Image]]:
    def draw(sources: dict[str, Path | str], prompts: list[str], seed: int) -> Iterator[Image.Image]:
        yield from drawing.draw(settings, sources, prompts, seed)

    return draw


def _candidate_label(candidate: Any) -> str:
    source = {"class": "classifier", "caption": "captioner", "refined caption": "refiner"}.get(candidate.source, "you")
    loss = f" · loss {candidate.loss:.4f}" if candidate.loss is not None else ""
    cut = f" · {candidate.num_cut} pieces cut" if candidate.num_cut else ""
    return f"{candidate.text}{loss} · {source}{cut}"


def _watched(watched: Any) -> tuple[Any, ...]:
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


def _words_here(visit: Visit) -> str:
    tokens = list(drawing.sources_of(visit))
    if not tokens:
        return fragments.sentences(["There is no word yet."])
    return fragments.sentences([f"Words that you can use in prompts: {', '.join(tokens)}"])
