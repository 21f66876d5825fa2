"""The studio in a real browser: from a click to a word at home, by mouse and by keyboard, on a desk and on a phone."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, TOYBOX, random_picture
from diffusers import StableDiffusionPipeline
from PIL import Image
from playwright.sync_api import Browser, Dialog, Page, expect, sync_playwright
from playwright.sync_api import TimeoutError as NoAnswer
from test_studio import MASK, SCENE, TOY, WORDS, pixels

pytestmark = pytest.mark.slow

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
AXE = ROOT / "out" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
GUIDANCE_SCALE, SAMPLER_STEPS = 2.0, 10
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


def required(found: Any, what: str) -> Any:
    """Return what a test needs; without it, fail where the project is checked, and skip anywhere else."""
    if not found:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"needs {what}")
    return found


def browser_path() -> str:
    return required(next(filter(None, map(shutil.which, BROWSERS)), None), "a browser: apt-get install chromium")


def axe() -> str:
    """Return the source of axe-core."""
    required(AXE.is_file(), "axe-core: npm install --no-save --prefix out/axe axe-core@4.11.0")
    return AXE.read_text()


@pytest.mark.parametrize(
    ("is_ci", "ending"),
    [("true", pytest.fail.Exception), ("false", pytest.skip.Exception), ("", pytest.skip.Exception)],
)
def test_without_browser_or_axe_a_check_fails_and_a_user_skips(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_ci: str, ending: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", is_ci)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys.modules[__name__], "AXE", tmp_path / "axe.min.js")
    for needed in (browser_path, axe):
        with pytest.raises(ending, match="needs "):
            needed()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = browser_path()
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@contextlib.contextmanager
def running_studio(folder: Path, *, sampler_steps: int) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run `supreme-init ui` as anybody does; yield where it is, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["ui", "--model", "toybox", "--server_port", str(port), "--num_inference_steps", str(sampler_steps)]
    log = folder / "log"
    with log.open("w") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "diffusers_supreme_init", *words],
            cwd=folder,
            env=os.environ | {"TMPDIR": str(folder)},
            stdout=written,
            stderr=written,
        )
    try:
        yield address_in(log, process), process
    finally:
        process.terminate()
        process.wait(30)
    assert "Traceback" not in log.read_text()


def address_in(log: Path, process: subprocess.Popen[bytes]) -> str:
    """Return where a studio is, once its log says so."""
    deadline = time.monotonic() + 120
    while not (found := re.search(r"open at (http\S+)", log.read_text())):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    return found[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The studio's folder of temporary files."""
    return tmp_path_factory.mktemp("studio")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with running_studio(folder, sampler_steps=SAMPLER_STEPS) as (url, _):
        yield url


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    yield from opened(browser, address, DESK)


def opened(browser: Browser, address: str, size: Any, **options: Any) -> Iterator[Page]:
    """Open the page, and watch what it asks for and what its scripts report."""
    page = browser.new_page(viewport=size, accept_downloads=True, **options)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: answer(dialog, wrong))
    page.on("request", lambda asked: wrong.append(asked.url) if not is_ours(asked.url, address) else None)
    page.goto(address)
    page.wait_for_selector("#picture input[type=file]", state="attached")
    yield page
    page.close()
    assert not wrong


def answer(dialog: Dialog, wrong: list[str]) -> None:
    """Leave the page if the browser asks whether to; any other dialog is a script that should not have run."""
    if dialog.type != "beforeunload":
        wrong.append(f"dialog: {dialog.message}")
    dialog.accept()


def is_ours(url: str, address: str) -> bool:
    return url.startswith((address, "data:", "blob:"))


def upload(page: Page, path: Path) -> None:
    page.set_input_files("#picture input[type=file]", str(path))
    page.wait_for_selector("#crop img")


def box_at_rest(page: Page) -> Any:
    """Return where the picture is, once it has come and nothing moves any longer."""
    is_there = "() => { const one = document.querySelector('#picture img'); return one?.complete && one.naturalWidth }"
    before = None
    while True:
        page.wait_for_function(is_there)
        page.locator("#picture img").scroll_into_view_if_needed()  # the mouse reaches only what is on the screen
        box = page.locator("#picture img").bounding_box()
        if box is not None and box == before:
            return box
        before = box
        page.wait_for_timeout(300)  # it also fades in


def click_on(page: Page, x: float, y: float, size: tuple[int, int]) -> None:
    """Click on a pixel of a picture of a size, wherever it is shown."""
    box = box_at_rest(page)
    scale = min(box["width"] / size[0], box["height"] / size[1])
    left = box["x"] + (box["width"] - scale * size[0]) / 2
    top = box["y"] + (box["height"] - scale * size[1]) / 2
    before = page.locator("#picture img").get_attribute("src")
    is_answered = "before => document.querySelector('#picture img')?.getAttribute('src') !== before"
    for is_last in (
        False,
        True,
    ):  # a picture that is replaced between press and release is not clicked; people try again
        page.mouse.click(left + (x + 0.5) * scale, top + (y + 0.5) * scale)
        try:
            page.wait_for_function(is_answered, arg=before, timeout=30_000)
        except NoAnswer:
            assert not is_last
        else:
            return


def picture_at(page: Page, selector: str, path: Path) -> np.ndarray:
    """Return the pixels of a picture as the server sends it."""
    source = page.locator(selector).first.get_attribute("src")
    path.write_bytes(page.request.get(str(source)).body())
    return pixels(path)


def test_from_a_click_to_a_word_at_home(page: Page, tmp_path: Path) -> None:
    began = time.monotonic()
    upload(page, SCENE)
    click_on(page, *TOY["click"], (256, 256))
    expect(page.locator("#found")).to_contain_text("13 % of the picture", timeout=30_000)
    # The overview is 4 times as large, and pale outside of the mask.
    shown = picture_at(page, "#picture img", tmp_path / "overview.png")[::4, ::4]
    kept = np.abs(shown.astype(int) - pixels(SCENE)).max(axis=2) == 0
    assert (kept & MASK).sum() / (kept | MASK).sum() >= 0.85
    assert picture_at(page, "#crop img", tmp_path / "crop.png").shape[1] < 200

    page.click("#find")
    choice = page.locator("#candidates label", has_text=f"{WORDS} · loss").first
    expect(choice).to_be_visible(timeout=60_000)
    choice.click()
    expect(page.locator("#words textarea, #words input")).to_have_value(WORDS)
    expect(page.locator("#pieces .chip")).to_have_text(WORDS.split())
    expect(page.locator("#name textarea, #name input")).to_have_value("<mug>")

    page.fill("#steps input[type=number]", "20")
    page.keyboard.press("Tab")
    page.click("#learn")
    expect(page.locator("#progress")).to_contain_text("of 20 steps, about", timeout=60_000)
    expect(page.locator("#stop")).to_be_visible()
    expect(page.locator("#progress")).to_contain_text("Done: 20 of 20 steps", timeout=120_000)
    expect(page.locator(".pair img")).to_have_count(4)
    expect(page.locator("#gallery .grid-wrap img")).to_have_count(6, timeout=120_000)
    expect(page.locator("#more")).to_be_visible()

    page.fill("#prompt textarea", "a photo of a {} on a mint background")
    page.fill("#seed input", "7")
    page.click("#draw")
    expect(page.locator("#own img")).to_be_visible(timeout=60_000)
    expect(page.locator("#download")).to_contain_text("mug.safetensors")
    with page.expect_download() as downloading:
        page.click("#download")
    downloading.value.save_as(tmp_path / "mug.safetensors")
    assert time.monotonic() - began < 180

    gallery = picture_at(page, "#gallery .grid-wrap img", tmp_path / "gallery.png")
    own = picture_at(page, "#own img", tmp_path / "own.png")
    for load in ("load_multitoken_inversion", "load_textual_inversion"):
        pipe = StableDiffusionPipeline.from_pretrained(TOYBOX / "pipeline")
        getattr(pipe, load)(str(tmp_path / "mug.safetensors"))
        for prompt, seed, drawn in (
            ("a photo of <mug>", 0, gallery),
            ("a photo of <mug> on a mint background", 7, own),
        ):
            generator = torch.Generator("cpu").manual_seed(seed)
            sampling = {"num_inference_steps": SAMPLER_STEPS, "guidance_scale": GUIDANCE_SCALE}
            assert np.array_equal(pipe(prompt, generator=generator, **sampling).images[0], drawn), load


def test_code_and_gallery_are_of_the_same_seed(page: Page) -> None:
    upload(page, SCENE)
    page.fill("#words textarea, #words input", WORDS)
    page.fill("#steps input[type=number]", "1")
    page.keyboard.press("Tab")
    page.click("#learn")
    pictures, seed = page.locator("#gallery .grid-wrap img"), page.locator("#seed input")
    expect(page.locator("#code")).to_contain_text("manual_seed(0)", timeout=120_000)
    expect(pictures).to_have_count(6, timeout=60_000)
    seed.fill("7")
    page.keyboard.press("Tab")
    expect(page.locator("#code")).to_contain_text("manual_seed(0)")  # nothing was drawn from it yet
    page.click("#again")
    expect(page.locator("#code")).to_contain_text("manual_seed(7)", timeout=60_000)
    page.click("#another")
    expect(page.locator("#code")).not_to_contain_text("manual_seed(7)", timeout=60_000)
    expect(page.locator("#code")).to_contain_text(f"manual_seed({seed.input_value()})")
    expect(pictures).to_have_count(6, timeout=60_000)


def test_words_go_with_the_thing_that_they_were_found_for(page: Page) -> None:
    words, candidates = page.locator("#words textarea, #words input"), page.locator("#candidates label")
    upload(page, SCENE)
    click_on(page, *TOY["click"], (256, 256))
    expect(page.locator("#found")).to_contain_text("13 % of the picture", timeout=30_000)
    page.click("#find")
    expect(candidates.first).to_be_visible(timeout=60_000)
    expect(words).not_to_have_value("")
    page.get_by_role("button", name="Clear", exact=True).click()
    expect(words).to_have_value("", timeout=30_000)
    expect(candidates).to_have_count(0)
    words.fill("my own words")
    click_on(page, *TOY["click"], (256, 256))
    expect(page.locator("#found")).to_contain_text("13 % of the picture", timeout=30_000)
    page.wait_for_timeout(500)
    expect(words).to_have_value("my own words")
    page.click("#example-scene_2")
    expect(words).to_have_value("", timeout=30_000)


def test_a_photo_that_lies_on_its_side_is_clicked_where_it_is_seen(page: Page, tmp_path: Path) -> None:
    scene = Image.open(SCENE).convert("RGB").resize((2048, 2048), Image.Resampling.LANCZOS)
    turned = scene.transpose(Image.Transpose.ROTATE_90)  # a viewer has to turn it by 90° clockwise
    exif = Image.Exif()
    exif[274] = 6
    turned.save(tmp_path / "photo.png", exif=exif)
    upload(page, tmp_path / "photo.png")
    x, y = (8 * side for side in TOY["click"])
    click_on(page, x, y, (2048, 2048))
    expect(page.locator("#found")).to_contain_text("13 % of the picture", timeout=60_000)
    assert picture_at(page, "#picture img", tmp_path / "shown.png").shape[:2] == (1024, 1024)


@pytest.mark.parametrize("size", [(96, 64), (256, 256), (700, 1600), (4000, 3000)])
def test_a_click_is_where_it_is_seen(page: Page, tmp_path: Path, size: tuple[int, int]) -> None:
    random_picture(size).save(tmp_path / "photo.png")
    upload(page, tmp_path / "photo.png")
    page.locator("#meaning label", has_text="corner of a box").click()
    for x, y in ((size[0] // 5, size[1] // 7), (size[0] - 9, size[1] - 9)):
        click_on(page, x, y, size)
        expect(page.locator("#found")).to_contain_text("the opposite corner", timeout=30_000)
        shown = picture_at(page, "#picture img", tmp_path / "overview.png").astype(int)
        dot = np.argwhere((np.abs(shown - (0, 0x72, 0xB2)) <= 3).all(axis=2))  # blue, as corners are
        down, across = (dot.min(axis=0) + dot.max(axis=0) + 1) / 2 * max(size) / max(shown.shape[:2])
        tolerance = 1 + 2 * max(size) / 380  # the picture is shown about so large
        assert abs(across - x) <= tolerance
        assert abs(down - y) <= tolerance
        page.get_by_role("button", name="Undo").click()
        expect(page.locator("#found")).to_contain_text("The whole picture will be learned", timeout=30_000)


def test_undo_box_and_a_reload(page: Page) -> None:
    upload(page, SCENE)
    left, top, right, bottom = TOY["box"]
    page.locator("#meaning label", has_text="corner of a box").click()
    click_on(page, left, top, (256, 256))
    expect(page.locator("#found")).to_contain_text("the opposite corner")
    click_on(page, right, bottom, (256, 256))
    expect(page.locator("#found")).to_contain_text("13 % of the picture", timeout=30_000)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#found")).to_contain_text("the opposite corner")
    page.get_by_role("button", name="Clear", exact=True).click()
    expect(page.locator("#found")).to_contain_text("The whole picture will be learned")
    with page.expect_event("dialog") as asked:  # the picture would be lost
        page.reload()
    assert asked.value.type == "beforeunload"
    page.wait_for_selector("#picture input[type=file]", state="attached")
    expect(page.locator("#crop img")).to_have_count(0)
    expect(page.locator("#learn")).to_have_count(0)


def test_a_browser_that_is_closed_while_training_leaves_nothing(
    browser: Browser, address: str, folder: Path, tmp_path: Path
) -> None:
    def of_visits(kind: str) -> set[Path]:
        return set(folder.glob(f"studio-*/{kind}/*"))

    before = {kind: of_visits(kind) for kind in ("visits", "uploads/shown", "uploads")}
    for page in opened(browser, address, DESK):
        random_picture((200, 100)).save(tmp_path / "own.png")
        upload(page, tmp_path / "own.png")
        page.fill("#words textarea, #words input", WORDS)
        page.fill("#steps input[type=number]", "300")
        page.keyboard.press("Tab")
        page.click("#learn")
        expect(page.locator("#progress")).to_contain_text("of 300 steps, about", timeout=60_000)
    left = {kind: of_visits(kind) - paths for kind, paths in before.items()}
    assert all(map(len, left.values()))
    (lesson,) = (path / "lesson-0" for path in left["visits"])
    deadline = time.monotonic() + 120
    while not (lesson / "result" / "training.json").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    steps = json.loads((lesson / "result" / "training.json").read_text())["steps"]
    assert 1 <= steps < 300  # it ended after its step, and nobody trains any longer
    while any(path.exists() for paths in left.values() for path in paths) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not [path for paths in left.values() for path in paths if path.exists()]


def test_what_somebody_types_is_shown_and_not_run(page: Page) -> None:
    upload(page, SCENE)
    evil = "a mug <img src=x onerror=alert(1)><script>alert(2)</script>"
    page.click("#words textarea, #words input")
    page.keyboard.type(evil)
    expect(page.locator("#pieces .chip").nth(2)).to_be_visible(timeout=30_000)
    page.fill("#name textarea, #name input", "<img/src=x/onerror=alert(3)>")
    page.fill("#steps input[type=number]", "1")
    page.keyboard.press("Tab")
    page.click("#learn")
    expect(page.locator("#progress")).to_contain_text("Done", timeout=120_000)
    expect(page.locator("#gallery .grid-wrap img")).to_have_count(6, timeout=120_000)
    page.fill("#prompt textarea", "<b>bold</b> <img src=x onerror=alert(4)>")
    page.click("#draw")
    expect(page.locator(".toast-body").first).to_contain_text("<b>")
    page.wait_for_timeout(500)
    assert page.locator("img[src='x'], #pieces script, .toast-body b").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_everybody_can_read_and_reach_it(browser: Browser, address: str, size: Any, scheme: Any) -> None:
    source = axe()
    for page in opened(browser, address, size, color_scheme=scheme):
        upload(page, SCENE)
        page.click("#find")
        expect(page.locator("#candidates label").first).to_be_visible(timeout=60_000)
        page.fill("#steps input[type=number]", "1")
        page.keyboard.press("Tab")
        page.click("#learn")
        expect(page.locator("#gallery .grid-wrap img")).to_have_count(6, timeout=120_000)
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        page.evaluate(source)
        found = page.evaluate("axe.run()")["violations"]
        serious = {
            one["id"]: [node["html"][:200] for node in one["nodes"]][:5]
            for one in found
            if one["impact"] in ("serious", "critical")
        }
        assert not serious
        reached = set()
        page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
        for _ in range(150):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.closest('[id]')?.id"))
        for name in ("find", "learn", "more", "another", "again", "draw", "download", "make-report"):
            assert name in reached, reached
        for inside in ("meaning", "candidates", "words", "name", "steps", "seed", "prompt", "program"):
            field = page.locator(f"#{inside} :is(input, textarea)").first.get_attribute("id")
            assert {inside, field} & reached, inside
