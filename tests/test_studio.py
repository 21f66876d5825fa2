"""The studio without a browser: everything a visitor can do, by `gradio_client`, and everything that goes wrong."""

import json
import logging
import pickle
import re
import runpy
import shutil
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio
import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, TOYBOX, assert_same, build_tiny_pipeline, snapshot_of
from diffusers import StableDiffusionPipeline
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from hub.client import shared_worker
from hub.server import READ_TOKEN, WRITE_TOKEN
from PIL import Image
from safetensors.torch import load_file
from tiny.image_families import stable_diffusion_xl

from diffusers_supreme_init import Describers, SupremeInitTextualInversionTrainer, SupremeInitWarning
from diffusers_supreme_init.commands import main as supreme_init
from diffusers_supreme_init.commands.arguments import (
    DescriberArguments,
    DrawingArguments,
    ModelArguments,
    RefinerArguments,
)
from diffusers_supreme_init.commands.describers import requested_describers
from diffusers_supreme_init.commands.main import COMMANDS
from diffusers_supreme_init.commands.parser import parse
from diffusers_supreme_init.commands.ui import studio_settings
from diffusers_supreme_init.studio import StudioServer, StudioSettings, fragments, open_studio, server
from diffusers_supreme_init.studio.home import PROGRAMS
from diffusers_supreme_init.studio.learning import learn as learn_in_calls
from diffusers_supreme_init.studio.learning import prepare
from diffusers_supreme_init.studio.lessons import trainer_of
from diffusers_supreme_init.studio.messages import VisitorError, as_sentence, heard, listening
from diffusers_supreme_init.studio.pointing import open_upload, read_point
from diffusers_supreme_init.studio.steps import training
from diffusers_supreme_init.studio.visits import Visits
from diffusers_supreme_init.studio.words import Tokens

# The page tells warnings to its visitors; in the tests' process they would be errors.
pytestmark = pytest.mark.filterwarnings("ignore::diffusers_supreme_init.SupremeInitWarning")

SCENE = TOYBOX / "scenes" / "scene_1.png"
TOY = json.loads((TOYBOX / "scenes" / "metadata.jsonl").read_text().splitlines()[0])["toys"][0]
MASK = np.asarray(Image.open(TOYBOX / "scenes" / TOY["mask_file_name"]).convert("L")) >= 128
CLICK = "{}, {}".format(*TOY["click"])
WORDS = "a red mug with black stripes"
ENDPOINTS = {
    *("open_picture", "forget_picture", "add_point", "undo_point", "clear_points", "find_words", "read_words"),
    *("learn", "learn_more", "stop", "draw_gallery", "draw", "add_file", "add_from_hub", "remove_others"),
    *("take_home", "download", "report", "push"),
}


def toybox_settings() -> StudioSettings:
    """Return what `supreme-init ui --model toybox` works with, with few steps of the sampler."""
    parsed = parse(COMMANDS["ui"], ["--model", "toybox", "--score_samples", "2", "--num_inference_steps", "2"])
    describers = requested_describers(parsed.of(RefinerArguments), parsed.of(DescriberArguments))
    made = studio_settings(
        parsed.of(ModelArguments), parsed.of(DrawingArguments), describers, server_name=server.LOOPBACK
    )
    return replace(made, training={**made.training, "validation_samples": 2}, grace_seconds=0.1)


@pytest.fixture(scope="module")
def settings() -> StudioSettings:
    """The toybox's describers, and a model that is tiny and draws nothing."""
    sampling = {"num_inference_steps": 2}
    return replace(toybox_settings(), pipe=build_tiny_pipeline(), model="user/tiny", sampling=sampling)


@pytest.fixture(scope="module")
def studio(settings: StudioSettings) -> Iterator[StudioServer]:
    with open_studio(settings) as opened:
        yield opened


@pytest.fixture(scope="module")
def visitor(studio: StudioServer) -> Iterator[Client]:
    """A visitor who stays; the tests are further actions of theirs."""
    client = Client(studio.url, verbose=False)
    yield client
    client.close()


def learn(visitor: Client, steps: int = 2, *, token: str = "<mug>", words: str = WORDS, **options: Any) -> list[Any]:
    """Learn from the picture that is open; return every record."""
    given = {"preview_every": 2, "learning_rate": None, "batch": 2, "around": 0.25, "seed": 0} | options
    job = visitor.submit(token, words, steps, *given.values(), api_name="/learn")
    job.result()  # iterating over a job asks a thousand times a second, which slows the training it waits for
    return [answer[0] for answer in job.outputs()]


def open_scene(visitor: Client, point: str | None = CLICK) -> Any:
    answer = visitor.predict(handle_file(str(SCENE)), api_name="/open_picture")
    return answer if point is None else visitor.predict(point, "this", api_name="/add_point")


def call(url: str, session: str, name: str, *given: Any) -> str:
    """Call an endpoint as any program does that speaks HTTP; return its events."""
    asked = json.dumps({"data": given, "session_hash": session}).encode()
    request = urllib.request.Request(f"{url}gradio_api/call/{name}", asked, {"Content-Type": "application/json"})
    event = json.load(urllib.request.urlopen(request))["event_id"]
    return urllib.request.urlopen(f"{url}gradio_api/call/{name}/{event}").read().decode()


def upload(url: str, name: str, data: bytes = SCENE.read_bytes()) -> str:
    """Upload a picture under a name; return where the server has put it."""
    body = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    request = urllib.request.Request(f"{url}gradio_api/upload", body + data + b"\r\n--x--\r\n", headers)
    return json.load(urllib.request.urlopen(request))[0]


def as_file(path: str | Path) -> dict[str, Any]:
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


# from a picture to a word, and home


@pytest.mark.long
def test_everything_by_script(tmp_path: Path) -> None:
    settings = toybox_settings()
    with open_studio(settings) as opened:
        visitor = Client(opened.url, verbose=False)
        take_a_mug_home(visitor, settings, tmp_path)
        visitor.close()


def take_a_mug_home(visitor: Client, settings: StudioSettings, tmp_path: Path) -> None:
    untouched = snapshot_of(settings.pipe)
    overview, crop, told, mask = open_scene(visitor)
    found = np.asarray(Image.open(mask)) >= 128
    assert (found & MASK).sum() / (found | MASK).sum() >= 0.85
    shown = pixels(overview)[::4, ::4].astype(int)  # small pictures are shown large
    assert (np.abs(shown - pixels(SCENE))[found].max(axis=1) == 0).mean() > 0.9  # but the dot
    left, _, right, _ = TOY["box"]
    assert Image.open(crop).width <= 1.5 * (right - left)
    assert "13 % of the picture" in told

    candidates, words, name, sure, pieces = visitor.predict(api_name="/find_words")
    assert WORDS in [text for _, text in candidates["choices"]]
    assert all(re.search(r" · loss 0\.\d{4} · (captioner|classifier)", label) for label, _ in candidates["choices"])
    assert (words, name) == (candidates["value"], "<mug>")
    assert "fit" in sure
    assert pieces.count('class="chip"') == len(words.split())

    records = learn(visitor, 4)
    assert [record["step"] for record in records] == sorted(record["step"] for record in records)
    assert {1, 2, 3, 4} <= {record["step"] for record in records}
    assert records[-1]["doing"] == "Over"
    assert any(record["seconds_left"] for record in records)

    gallery = visitor.predict(5, api_name="/draw_gallery")
    spent, told_cost, code, words_here = visitor.predict(api_name="/take_home")
    assert (spent["steps"], spent["samples"], spent["rows"]) == (4, 8, 6)
    assert spent["seconds"] == pytest.approx(records[-1]["seconds"], abs=0.1)
    assert "&lt;mug&gt;" in told_cost
    assert "&lt;mug&gt;" in words_here
    assert [shown["caption"] for shown in gallery][:1] == ["a photo of <mug>"]
    assert len(gallery) == 6
    own = visitor.predict("a photo of a {} on a mint background", 7, api_name="/draw")
    file, usage = visitor.predict("diffusers", api_name="/download")
    assert "&lt;mug&gt;" in usage

    shutil.copy(file["value"], tmp_path / "mug.safetensors")
    sampling = {"num_inference_steps": 2, "guidance_scale": settings.sampling["guidance_scale"]}
    for load in ("load_multitoken_inversion", "load_textual_inversion"):
        pipe = StableDiffusionPipeline.from_pretrained(TOYBOX / "pipeline")
        getattr(pipe, load)(str(tmp_path / "mug.safetensors"))
        for prompt, seed, drawn in (
            ("a photo of <mug>", 5, gallery[0]["image"]),
            ("a photo of <mug> on a mint background", 7, own),
        ):
            generator = torch.Generator("cpu").manual_seed(seed)
            assert np.array_equal(pipe(prompt, generator=generator, **sampling).images[0], pixels(drawn)), load
    *setting_up, drawing = code.replace("'mug.safetensors'", repr(str(tmp_path / "mug.safetensors"))).splitlines()
    names: dict[str, Any] = {}
    exec("\n".join([*setting_up, f"drawn = {drawing}"]), names)
    assert np.array_equal(names["drawn"], pixels(gallery[0]["image"]))  # of the seed that the gallery shows
    page = Path(visitor.predict(api_name="/report")["value"]).read_text()
    assert "<mug>" not in page
    assert "&lt;mug&gt;" in page
    assert re.search(r"\b4\b.{0,40}steps", page)
    for label, text in candidates["choices"]:
        assert re.search(rf"<td>{text}</td>.*\n.*{re.search(r'loss (0.[0-9]+)', label)[1][:-1]}", page), label
    assert_same(untouched, snapshot_of(settings.pipe))


def test_every_step_is_a_named_endpoint(visitor: Client) -> None:
    named = {name.strip("/") for name in visitor.view_api(print_info=False, return_format="dict")["named_endpoints"]}
    assert named == ENDPOINTS


# training


def test_more_steps_go_on_exactly(visitor: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "MORE_STEPS", 2)
    open_scene(visitor, None)
    rows = {}
    for how, steps in (("at once", 4), ("in two", 2)):
        learn(visitor, steps)
        if how == "in two":
            *_, last = visitor.submit(api_name="/learn_more")
            assert last[0]["step"] == last[0]["steps"] == 4
        file, _ = visitor.predict("diffusers", api_name="/download")
        rows[how] = load_file(file["value"])["<mug>"]
    assert torch.equal(rows["at once"], rows["in two"])


def test_stop_keeps_what_is_there(visitor: Client) -> None:
    open_scene(visitor, None)
    job = visitor.submit("<mug>", WORDS, 300, 300, None, 2, 0.25, 0, api_name="/learn")
    for answer in job:
        if answer[0]["step"] == 1:
            visitor.predict(api_name="/stop")
    last = job.outputs()[-1]
    assert 1 <= last[0]["step"] < 300
    assert "Stopped; everything learned so far is kept" in last[1]
    assert visitor.predict(api_name="/take_home")[0]["steps"] == last[0]["step"]


@pytest.mark.slow
def test_a_failed_training_leaves_the_word_before(
    visitor: Client, settings: StudioSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "MORE_STEPS", 1)
    open_scene(visitor, None)
    learn(visitor, 1)
    before, _ = visitor.predict("diffusers", api_name="/download")

    def breaks(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    for again in ((visitor.submit, "<cup>", "a bear", 2, 2, None, 2, 0.25, 0), (visitor.submit,)):
        call, *given = again
        with monkeypatch.context() as broken:
            broken.setattr(settings.pipe.unet, "forward", breaks)
            with pytest.raises(AppError, match="graphics card is full"):
                call(*given, api_name="/learn" if given else "/learn_more").result()
        spent, told_cost, _, _ = visitor.predict(api_name="/take_home")
        assert (spent["steps"], "&lt;mug&gt;" in told_cost) == (1, True)
        after, _ = visitor.predict("diffusers", api_name="/download")
        assert Path(after["value"]).read_bytes() == Path(before["value"]).read_bytes()
    *_, last = visitor.submit(api_name="/learn_more")
    assert (last[0]["step"], last[0]["token"]) == (2, "<mug>")


def test_words_of_another_selection_are_no_candidates_of_this_one(visitor: Client, studio: StudioServer) -> None:
    visit = studio.visits.of(visitor.session_hash)
    open_scene(visitor)
    _, words, *_ = visitor.predict(api_name="/find_words")
    assert visit.proposal is not None
    assert not visit.proposal.pictures  # the visitor's picture is kept once
    visitor.predict(api_name="/clear_points")
    assert visit.proposal is None
    assert words in visit.outdated_words
    learn(visitor, 1, words=words)
    record = json.loads((visit.folder / f"lesson-{visit.num_lessons - 1}" / "result" / "training.json").read_text())
    assert (record["description"], record["initializer"]) == (words, None)


@pytest.mark.slow
def test_one_trains_and_the_other_sees_a_place_in_the_queue(visitor: Client, studio: StudioServer) -> None:
    other = Client(studio.url, verbose=False)
    open_scene(visitor, None)
    open_scene(other, None)
    first = visitor.submit("<mug>", WORDS, 3, 3, None, 2, 0.25, 0, api_name="/learn")
    second = other.submit("<mug>", "a bear", 1, 3, None, 2, 0.25, 0, api_name="/learn")
    ranks = set()
    while not first.done():
        ranks.add(second.status().rank)
        time.sleep(0.02)
    second.result()
    other.close()
    assert ranks & {0, 1}
    assert first.outputs()[-1][0]["words"] == WORDS  # the same name, and each has their own word
    assert second.outputs()[-1][0]["words"] == "a bear"


def test_a_closed_page_ends_its_training_and_leaves_no_file(
    studio: StudioServer, settings: StudioSettings, tmp_path: Path
) -> None:
    client = Client(studio.url, verbose=False)
    shutil.copy(SCENE.with_name("scene_2.png"), tmp_path / "own.png")
    client.predict(handle_file(str(tmp_path / "own.png")), api_name="/open_picture")
    client.predict("79, 195", "this", api_name="/add_point")
    visit = studio.visits.of(client.session_hash)
    (upload,) = visit.uploads
    assert upload.is_file()
    job = client.submit("<cup>", WORDS, 300, 300, None, 2, 0.25, 0, api_name="/learn")
    while not any(answer[0]["step"] for answer in job.outputs()):
        time.sleep(0.05)
    client.close()
    studio.visits.leave(client.session_hash)  # what the browser's last message does at once, and a lost line later
    deadline = time.monotonic() + 60
    left = (visit.folder, visit.shown, upload)
    while (any(path.exists() for path in left) or settings.using_model.locked()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not settings.using_model.locked()
    assert not [path for path in left if path.exists()]
    assert "<cup>" not in str(snapshot_of(settings.pipe)["tokenizer"])


def test_who_comes_back_in_time_keeps_everything(tmp_path: Path) -> None:
    over: list[str] = []
    visits = Visits(tmp_path / "private", tmp_path / "served", grace_seconds=0.2, forget=over.append)
    visit = visits.of("tab")
    upload = tmp_path / "photo.jpg"
    upload.touch()
    visit.uploads.add(upload)
    visits.leave("tab")
    assert visits.of("tab") is visit
    time.sleep(0.4)
    assert visit.folder.exists()
    other = visits.of("second tab")
    other.uploads.add(upload)
    assert other.folder != visit.folder
    visits.leave("tab")
    time.sleep(0.4)
    assert not visit.folder.exists()
    with pytest.raises(VisitorError, match="your files were deleted"):
        visit.show(Image.new("RGB", (8, 8)), "late")
    assert not visit.shown.exists()
    assert upload.exists()  # the other tab shows the same photo
    assert over == ["tab"]
    visits.leave("a tab in which nothing was done")
    time.sleep(0.4)
    assert over[1:] == ["a tab in which nothing was done"]
    visits.close_all()
    assert not upload.exists()
    assert len(visits) == 0


@pytest.mark.slow
def test_scripts_that_never_leave_are_forgotten(settings: StudioSettings) -> None:
    """They speak HTTP, so nothing says when they end; an open page says every now and then that it is here."""
    with open_studio(replace(settings, idle_seconds=2.0)) as opened:
        for session in ("idle", "busy"):
            uploaded = as_file(upload(opened.url, "a.png"))
            assert "event: complete" in call(opened.url, session, "open_picture", uploaded)
        idle, busy = (opened.visits.of(session) for session in ("idle", "busy"))
        kept = [path for visit in (idle, busy) for path in (visit.folder, visit.shown, *visit.uploads)]
        assert all(path.exists() for path in kept)
        deadline = time.monotonic() + 30
        while any(path.exists() for path in (idle.folder, idle.shown)) and time.monotonic() < deadline:
            opened.visits.stay("busy")
            time.sleep(0.1)
        assert not any(path.exists() for path in (idle.folder, idle.shown))
        assert busy.folder.exists()
        assert len(opened.visits) == 1
        assert "busy" in opened.page.state_holder
        assert "idle" not in opened.page.state_holder  # gradio keeps what a page showed
        opened.visits.stay("idle")  # no visit begins
        assert len(opened.visits) == 1
        assert "event: complete" in call(opened.url, "busy", "undo_point")
        assert "Choose a picture first" in call(opened.url, "idle", "undo_point")
        deadline = time.monotonic() + 30
        while (len(opened.visits) or any(path.exists() for path in kept)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(opened.visits) == 0
        assert not any(path.exists() for path in kept)


def test_an_example_that_is_uploaded_too_stays_on_the_page(studio: StudioServer) -> None:
    (icon,) = Path(studio.page.GRADIO_CACHE).rglob("scene_4.png")
    path = Path(upload(studio.url, "scene_4.png", SCENE.with_name("scene_4.png").read_bytes()))
    assert path.samefile(icon)
    own = Path(upload(studio.url, "own.png", SCENE.with_name("scene_4.png").read_bytes() + b"own"))
    for uploaded in (path, own):
        assert "event: complete" in call(studio.url, "example", "open_picture", as_file(uploaded))
    studio.visits.leave("example")
    deadline = time.monotonic() + 30
    while own.parent.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not own.parent.exists()
    assert icon.exists()


# what goes wrong


def png_that_says(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes that claims a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def refused(visitor: Client, *given: Any, api_name: str) -> str:
    """Return the sentence with which a call is refused."""
    with pytest.raises(AppError) as raised:
        visitor.submit(*given, api_name=api_name).result()
    sentence = str(raised.value)
    assert "Traceback" not in sentence
    assert "Error" not in sentence
    assert str(ROOT) not in sentence
    assert not re.search(r"/(tmp|root|home)/", sentence)
    assert sentence.rstrip()[-1] in ".!?"
    return sentence


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("notes.png", b"no picture", "This file is not a picture that can be read"),
        ("empty.png", b"", "not a picture"),
        ("cut.png", SCENE.read_bytes()[:400], "This picture cannot be used"),
        ("large.png", png_that_says(10_000, 10_000), "The picture has 100 megapixels, and this page takes at most 64"),
        ("huge.png", png_that_says(100_000, 100_000), "not a picture|megapixels"),
        ("tiny.png", png_that_says(4, 4), "at least 8 pixels a side"),
        ("drawing.svg", b"<svg onload='alert(1)'/>", "not a picture"),
    ],
)
def test_uploads_that_are_no_pictures(visitor: Client, tmp_path: Path, name: str, data: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(data)
    assert re.search(sentence, refused(visitor, handle_file(str(tmp_path / name)), api_name="/open_picture"))


def test_clicks_and_words_that_cannot_be(visitor: Client) -> None:
    open_scene(visitor, None)
    assert "outside of the picture, which is 256 × 256" in refused(visitor, "256, 3", "this", api_name="/add_point")
    assert "outside" in refused(visitor, "-1 3", "this", api_name="/add_point")
    assert "two numbers" in refused(visitor, "left", "this", api_name="/add_point")
    for words, sentence in (
        ("", "Write a few words"),
        ("\u200b", "Expected a description"),
        ("<|endoftext|>", "ordinary words"),
        ("red " * 1000, "at most 2,000 letters, and these are 4,000"),
        ("red " * 100, "These words become 100 pieces, and at most"),
        ("/etc/passwd", "the name of a file or a setting"),
        ("../../secret.safetensors", "the name of a file or a setting"),
        ("auto", "the name of a file or a setting"),
    ):
        assert sentence in refused(visitor, "<mug>", words, 2, 2, None, 2, 0.25, 0, api_name="/learn"), words
    for name, sentence in (
        ("", "Give the new word a name"),
        ("<my mug>", "no spaces"),
        ("x" * 61, "at most 60 letters"),
        ("<MUG>", "no capitals"),
    ):
        assert sentence in refused(visitor, name, WORDS, 2, 2, None, 2, 0.25, 0, api_name="/learn"), name
    for steps, every, rate, batch, seed in ((0, 2, None, 2, 0), (1001, 2, None, 2, 0), (2, 0, None, 2, 0)):
        assert refused(visitor, "<mug>", WORDS, steps, every, rate, batch, 0.25, seed, api_name="/learn")
    told = refused(visitor, "<mug>", WORDS, 2, 2, -1, 2, 0.25, 0, api_name="/learn")
    assert told == "Learning rate: expected above 0, or None, got -1."


def test_prompts_that_cannot_be(visitor: Client) -> None:
    open_scene(visitor, None)
    learn(visitor, 1)
    for prompt, sentence in (
        ("", "Write what to draw"),
        ("a photo of a dog", "Expected a prompt with &lt;mug&gt;"),
        ("a photo of a <mugg>", "did you mean &lt;mug&gt;?"),
        ("<mug> " * 900, "at most 2,000 letters, and these are 5,400"),
        ("a photo of <mug> " * 20, "and the model reads 77"),
        ("<mug> <img src=x onerror=alert(1)> <b>", "&lt;b&gt; is not a word"),
    ):
        told = refused(visitor, prompt, 0, api_name="/draw")
        assert sentence in told, prompt
        assert "<" not in told  # tags are shown, not run
    assert "whole number" in refused(visitor, "a {}", -1, api_name="/draw")


def test_nothing_yet(studio: StudioServer) -> None:
    client = Client(studio.url, verbose=False)
    for api_name in ("/undo_point", "/find_words"):
        assert "Choose a picture first" in refused(client, api_name=api_name)
    for api_name in ("/take_home", "/report", "/learn_more"):
        assert "Learn a word first" in refused(client, api_name=api_name)
    assert "There is no word yet" in refused(client, 0, api_name="/draw_gallery")
    client.close()


def test_a_token_made_of_tags_and_path_tricks(visitor: Client) -> None:
    open_scene(visitor, None)
    token = "<../../script>"
    records = learn(visitor, 1, token=token)
    assert records[-1]["token"] == token
    file, usage = visitor.predict("diffusers", api_name="/download")
    assert re.fullmatch(r"script-[0-9a-f]{12}\.safetensors", Path(file["value"]).name)
    assert "<../" not in usage
    _, told_cost, code, words_here = visitor.predict(api_name="/take_home")
    assert "<../" not in told_cost + words_here
    assert repr(f"a photo of {token}") in code


@pytest.mark.slow
def test_words_from_elsewhere(visitor: Client, tmp_path: Path) -> None:
    open_scene(visitor, None)
    learn(visitor, 1, token="<bear>", words="a bear")
    file, _ = visitor.predict("Forge", api_name="/download")
    learn(visitor, 1)
    shutil.copy(file["value"], tmp_path / "bear.safetensors")
    here = visitor.predict(handle_file(str(tmp_path / "bear.safetensors")), api_name="/add_file")
    assert "&lt;mug&gt;, &lt;bear&gt;" in here
    assert visitor.predict("<mug> beside <bear>", 0, api_name="/draw")
    assert "named &lt;bear&gt; is here already" in refused(
        visitor, handle_file(str(tmp_path / "bear.safetensors")), api_name="/add_file"
    )
    assert "&lt;bear&gt;" not in visitor.predict(api_name="/remove_others")
    (tmp_path / "bad.safetensors").write_bytes(b"x" * 100)
    assert refused(visitor, handle_file(str(tmp_path / "bad.safetensors")), api_name="/add_file")


def test_an_id_on_the_hub_is_never_a_folder_of_the_server(
    visitor: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(TOYBOX)
    for repo_id in ("concepts/masks", "../toybox", "/etc", str(tmp_path), "nobody"):
        assert re.search(
            "a folder on this machine|the id of a word", refused(visitor, repo_id, api_name="/add_from_hub")
        )


def test_every_program_gets_a_file_or_a_reason(visitor: Client) -> None:
    open_scene(visitor, None)
    learn(visitor, 1)
    with pytest.raises(AppError, match="not in the list of choices"):
        visitor.predict("Paint", api_name="/download")
    for program in PROGRAMS:
        if program.name == "ComfyUI":  # it names text encoders, and the toybox's is none of those it knows
            assert "ComfyUI cannot read this word" in refused(visitor, program.name, api_name="/download")
            continue
        file, usage = visitor.predict(program.name, api_name="/download")
        assert Path(file["value"]).name == f"mug{program.suffix}"
        assert usage.startswith("<p>")


@pytest.mark.slow
def test_a_word_of_several_encoders_is_one_download(tmp_path: Path, settings: StudioSettings) -> None:
    hosted = replace(settings, pipe=stable_diffusion_xl(), model="user/tiny-xl")
    with open_studio(hosted) as opened:
        visitor = Client(opened.url, verbose=False)
        open_scene(visitor, None)
        learn(visitor, 1)
        picture = visitor.predict("a photo of <mug>", 3, api_name="/draw")
        spent, _, code, _ = visitor.predict(api_name="/take_home")
        file, usage = visitor.predict("diffusers", api_name="/download")
        refusal = refused(visitor, "AUTOMATIC1111", api_name="/download")
        visitor.close()
    assert Path(file["value"]).name == "mug.zip"
    assert "Unpack it" in usage
    assert "load_multitoken_inversion('mug')" in code
    assert refusal
    shutil.unpack_archive(file["value"], tmp_path)
    assert {path.name for path in (tmp_path / "mug").iterdir()} == {
        "learned_embeds.safetensors",
        "learned_embeds_2.safetensors",
    }
    files = sorted((tmp_path / "mug").iterdir())
    assert spent["rows"] == sum(len(load_file(path)["<mug>"]) for path in files)
    assert spent["bytes"] == sum(path.stat().st_size for path in files)
    pipe = stable_diffusion_xl()
    pipe.load_multitoken_inversion(str(tmp_path / "mug"))
    generator = torch.Generator("cpu").manual_seed(3)
    drawn = pipe("a photo of <mug>", generator=generator, **hosted.sampling).images[0]
    assert np.array_equal(drawn, pixels(picture))


def test_a_full_graphics_card_is_a_sentence(
    visitor: Client, settings: StudioSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_scene(visitor, None)
    learn(visitor, 1)
    before = snapshot_of(settings.pipe)

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(settings.pipe.unet, "forward", full)
    assert "memory of the graphics card is full" in refused(visitor, "a {}", 0, api_name="/draw")
    told = refused(visitor, "<cup>", WORDS, 2, 2, None, 2, 0.25, 0, api_name="/learn")
    assert "memory of the graphics card is full" in told
    monkeypatch.undo()
    assert_same(before, snapshot_of(settings.pipe))
    assert not settings.using_model.locked()
    learn(visitor, 1)
    assert visitor.predict("a {}", 0, api_name="/draw")


def test_a_bug_is_a_sentence_too(
    visitor: Client, settings: StudioSettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    open_scene(visitor, None)
    monkeypatch.setattr(settings.pipe.unet, "forward", lambda *_, **__: 1 / 0)
    told = refused(visitor, "<cup>", WORDS, 2, 2, None, 2, 0.25, 0, api_name="/learn")
    assert told == "Something unexpected happened, and the details are in the server's log. Please try again."
    assert "division by zero" in caplog.text


# who may see what


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../../../../../../etc/passwd",
        "..%2f..%2f..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/etc/passwd",
        "{root}/pyproject.toml",
        "{private}/result/training.json",
        "{served}/../../visits",
        "file:///etc/passwd",
    ],
)
def test_no_file_outside_is_served(visitor: Client, studio: StudioServer, path: str) -> None:
    open_scene(visitor, None)
    visit = studio.visits.of(visitor.session_hash)
    (visit.folder / "result").mkdir(exist_ok=True)
    (visit.folder / "result" / "training.json").write_text("{}")
    asked = path.format(root=ROOT, private=visit.folder, served=visit.shown)
    for route in ("gradio_api/file=", "file=", "gradio_api/file/", "static/", "assets/"):
        with pytest.raises(urllib.error.HTTPError, match="40[0345]"):
            urllib.request.urlopen(f"{studio.url}{route}{asked}")


def test_no_file_of_the_server_is_taken_for_an_upload(visitor: Client, studio: StudioServer, tmp_path: Path) -> None:
    """Neither a picture nor a word: only what was uploaded is opened."""
    open_scene(visitor, None)
    learn(visitor, 1)
    visit = studio.visits.of(visitor.session_hash)
    own = next(visit.folder.rglob("learned_embeds.safetensors"))
    picture = tmp_path / "photo.png"
    shutil.copy(SCENE, picture)
    stranger = studio.visits.of("stranger")
    for name, paths in (
        ("open_picture", [picture, SCENE, "/etc/passwd", f"{visit.shown}/../../../{picture}"]),
        ("add_file", [own, "/etc/passwd"]),
    ):
        for path in paths:
            told = call(studio.url, "stranger", name, as_file(path))
            assert "event: error" in told, (path, told)
            assert "Traceback" not in told
    assert (stranger.picture, stranger.others) == (None, {})


@pytest.mark.parametrize(
    "name", ["../../../evil.png", "/tmp/evil.png", "..\\..\\evil.png", "<img src=x>.png", "a" * 300 + ".png"]
)
def test_names_of_uploads_are_only_names(studio: StudioServer, name: str) -> None:
    path = Path(upload(studio.url, name))
    served = Path(studio.visits.of("names").shown).parents[1]
    assert path.resolve().is_relative_to(served)
    assert path.read_bytes() == SCENE.read_bytes()
    assert "event: complete" in call(studio.url, "names", "open_picture", as_file(path))


def test_it_listens_on_this_machine_only(studio: StudioServer) -> None:
    assert studio.url.startswith("http://127.0.0.1:")
    assert studio.page.server_name == "127.0.0.1"
    assert studio.page.allowed_paths == []


@pytest.mark.parametrize(
    ("server_name", "login"),
    [("127.0.0.1", "machine"), ("::1", "machine"), ("localhost", "machine"), ("0.0.0.0", "token"), ("desk", "token")],
)
def test_the_login_of_this_machine_is_for_its_own_user(server_name: str, login: str) -> None:
    drawing = DrawingArguments()
    made = studio_settings(
        ModelArguments(pretrained_model_name_or_path="toybox"), drawing, Describers(), server_name=server_name
    )
    assert made.login == login


@pytest.mark.slow
def test_without_gradio_the_extra_is_named() -> None:
    code = "import sys; sys.modules['gradio'] = None; from diffusers_supreme_init.commands import main; "
    command = [sys.executable, "-c", f"{code}sys.exit(main(['ui', '--model', 'toybox']))"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert "pip install 'diffusers-supreme-init[ui]'" in ended.stderr


def test_a_port_that_is_taken(studio: StudioServer) -> None:
    port = re.search(r":(\d+)/", studio.url)[1]
    assert supreme_init(["ui", "--model", "toybox", "--server_port", port]) == 1


@pytest.mark.slow
def test_pushing_takes_the_login_of_the_visitor(tmp_path: Path) -> None:
    hub = shared_worker("regular")
    setup = f"""
import dataclasses
from pathlib import Path
from conftest import build_tiny_pipeline, random_picture
from diffusers_supreme_init import SupremeInitConfig, SupremeInitTextualInversionTrainer
from diffusers_supreme_init.studio import StudioSettings
from diffusers_supreme_init.studio.home import push
from diffusers_supreme_init.studio.visits import Learned, Lesson, Visit
pipe = build_tiny_pipeline()
pipe.register_to_config(_name_or_path="user/base")
visit = Visit(Path({str(tmp_path)!r}) / "visit", Path({str(tmp_path)!r}) / "shown")
word = visit.folder / "lesson-0" / "result"
if not word.exists():
    config = SupremeInitConfig(max_train_steps=1, validation_samples=0)
    trainer = SupremeInitTextualInversionTrainer(pipe, random_picture(), "<mug>", "a mug", config=config)
    trainer.train()
    trainer.save(word)
lesson = Lesson(
    token="<mug>", words="a mug", proposal=None, picture=None, mask=None, settings={{}}, preview_every=1
)
visit.learned = Learned(lesson, target=1, steps=1)
def studio_push(login, token):
    settings = StudioSettings(pipe=pipe, describers=None, model="user/base", login=login)
    return push(settings, visit, "user/mug", private=True, replace=False, token=token)
"""
    for login, sentence in (
        ("token", "Paste an access token of yours first"),
        ("space", "Log in with the link above"),
    ):
        told = hub.run(f"{setup}result = studio_push({login!r}, None)")
        assert sentence in told.error  # though this machine is logged in
    told = hub.run(f"{setup}result = studio_push('token', {READ_TOKEN!r})")
    assert "may only read" in told.error
    with pytest.raises(KeyError):
        hub.server.commits("user/mug")
    address = hub.run(f"{setup}result = studio_push('token', {WRITE_TOKEN!r})", token=None).check().value
    assert address.endswith("/user/mug")
    assert len(hub.server.commits("user/mug")) == 2
    # It is private: the owner of this machine may draw with it, a visitor may not with the machine's login.
    drawn = f"""{setup}
from diffusers_supreme_init.studio.drawing import add_from_hub, draw, filled, sources_of
guest = Visit(Path({str(tmp_path)!r}) / "guest", Path({str(tmp_path)!r}) / "shown")
def studio_draw(login):
    settings = StudioSettings(pipe=pipe, describers=None, model="user/base", login=login)
    name = add_from_hub(settings, guest, "user/mug")
    (picture,) = draw(settings, sources_of(guest), filled(guest, ["a photo of a {{}}"]), 0)
    return name, picture.size
"""
    assert hub.run(f"{drawn}result = studio_draw('machine')").check().value == ["<mug>", [32, 32]]
    assert "user/mug" in hub.run(f"{drawn}result = studio_draw('token')").error


# a host that lends its GPU for a minute at a time


def in_another_process(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function get and give only what can be sent between processes, as ZeroGPU does."""

    def copied(value: Any) -> Any:
        return pickle.loads(pickle.dumps(value))

    def called(*given: Any) -> Any:
        answer = function(*copied(given))
        return map(copied, answer) if isinstance(answer, Iterator) else copied(answer)

    return called


def test_training_goes_on_in_the_next_call(settings: StudioSettings, tmp_path: Path) -> None:
    rows = []
    for limit in (None, 0.0):
        calls: list[int] = []
        hosted = replace(settings, seconds_per_call=limit, on_gpu=in_another_process)
        visit = Visits(tmp_path / f"{limit}", tmp_path / "shown").of("tab")
        open_upload(visit, str(SCENE))
        run = prepare(
            hosted,
            visit,
            name="mug",
            words=WORDS,
            steps=3,
            preview_every=2,
            learning_rate=None,
            train_batch_size=2,
            unmasked_weight=0.25,
            seed=0,
        )
        train = hosted.on_gpu(trainer_of(hosted))

        def counted(*given: Any) -> Any:
            calls.append(1)  # noqa: B023
            return train(*given)  # noqa: B023

        *_, last = learn_in_calls(counted, visit, run)
        assert (last.is_over, last.learned.steps, len(last.learned.losses)) == (True, 3, 3)
        assert len(calls) == (1 if limit is None else 3)
        rows.append(load_file(visit.folder / "lesson-0" / "result" / "learned_embeds.safetensors")["<mug>"])
    assert torch.equal(*rows)


def test_the_space_is_a_studio(settings: StudioSettings) -> None:
    folder = ROOT / "examples" / "space"
    front = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert front["sdk_version"] == gradio.__version__
    assert (front["sdk"], front["hf_oauth"], front["hf_oauth_scopes"]) == ("gradio", True, ["write-repos"])
    app = runpy.run_path(str(folder / front["app_file"]))
    made = app["studio_settings"](str(TOYBOX / "pipeline"), settings.describers)
    assert made.login == "space"
    assert (folder / "requirements.txt").read_text().splitlines() == ["diffusers-supreme-init[ui]", "spaces"]


# sentences


def test_messages_become_sentences() -> None:
    assert as_sentence("region: expected a point, got none; pass points=(x, y)") == "Expected a point, got none."
    assert as_sentence("prompts: what is it?") == "What is it?"
    with listening(), heard() as notices:
        warnings.warn("the mask covers 95 %", SupremeInitWarning, stacklevel=1)
        logging.getLogger("diffusers_supreme_init.describers").warning("region: the point misses")
        logging.getLogger("diffusers_supreme_init.describers").info("not for visitors")
        other: list[str] = []
        thread = threading.Thread(target=lambda: other.extend(_heard_alone()))
        thread.start()
        thread.join()
    assert notices == ["The mask covers 95 %.", "The point misses."]
    assert other == ["Of another visitor."]


def _heard_alone() -> list[str]:
    with heard() as notices:
        warnings.warn("of another visitor", SupremeInitWarning, stacklevel=1)
    return notices


def test_what_is_shown_is_escaped() -> None:
    chips = fragments.chips(Tokens(("<b>", "mug"), limit=1))
    assert "&lt;b&gt;" in chips
    assert chips.count("beyond") == 1
    assert "<script>" not in fragments.sentences(["<script>"])
    assert "<script>" not in fragments.link("https://x/<script>")


@pytest.mark.parametrize(("typed", "point"), [("412, 230", (412, 230)), ("(1.5 2)", (1.5, 2)), ("7x9", (7, 9))])
def test_typed_points(typed: str, point: tuple[float, float]) -> None:
    assert read_point(typed) == point


def test_draw_while_training_changes_no_row(tmp_path: Path) -> None:
    rows = []
    for looks in (False, True):
        pipe = build_tiny_pipeline()
        trainer = SupremeInitTextualInversionTrainer(pipe, SCENE, "<mug>", "a mug")
        trainer.config.max_train_steps, trainer.config.validation_samples = 3, 0
        seen: list[Any] = []

        def look(step: int, _: Any) -> None:
            seen.append(trainer.draw(["a photo of <mug>"], seed=step, num_inference_steps=2)[0])  # noqa: B023

        trainer.train(look if looks else None)
        rows.append(trainer.results[0].rows["text_encoder"])
        if looks:
            generator = torch.Generator("cpu").manual_seed(3)
            drawn = pipe("a photo of <mug>", generator=generator, num_inference_steps=2).images[0]
            assert np.array_equal(drawn, seen[-1])  # the rows after the last step
    assert torch.equal(*rows)
