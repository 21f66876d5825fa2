"""Write the pictures of docs/studio.md: `PYTHONPATH=src:tests .venv/bin/python tests/studio_pictures.py`."""

import io
import re
import tempfile
from pathlib import Path

from conftest import ROOT
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from test_studio import SCENE, TOY, WORDS
from test_studio_in_a_browser import DESK, PHONE, browser_path, click_on, running_studio, upload

FOLDER = ROOT / "docs" / "studio"
STEPS, SHOWN_AT = 100, 40
WIDEST, NUM_COLORS = 800, 128


def write(data: bytes, name: str) -> None:
    """Write a screenshot, small."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    if picture.width > WIDEST:
        size = (WIDEST, round(picture.height * WIDEST / picture.width))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    picture.quantize(NUM_COLORS, dither=Image.Dither.NONE).save(FOLDER / name, optimize=True)


def step(page: Page, number: int) -> bytes:
    """Return a picture of a step, as it is on the page."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(600)
    return page.locator(".step").nth(number - 1).screenshot()


def learn_a_mug(page: Page, *, is_shown: bool) -> None:
    """Do what a visitor does, and write what a visitor sees if asked to."""
    upload(page, SCENE)
    click_on(page, *TOY["click"], (256, 256))
    expect(page.locator("#found")).to_contain_text("%", timeout=30_000)
    if is_shown:
        write(step(page, 1), "picture.png")
    page.click("#find")
    choice = page.locator("#candidates label", has_text=f"{WORDS} · loss").first
    expect(choice).to_be_visible(timeout=60_000)
    choice.click()
    if is_shown:
        write(step(page, 2), "words.png")
    page.fill("#steps input[type=number]", str(STEPS))
    page.keyboard.press("Tab")
    page.click("#learn")
    if is_shown:
        shown = re.compile("|".join(f"{number} of" for number in range(SHOWN_AT, STEPS)))
        expect(page.locator("#progress")).to_contain_text(shown, timeout=240_000)
        write(step(page, 3), "learning.png")
    expect(page.locator("#gallery .grid-wrap img")).to_have_count(6, timeout=240_000)
    page.fill("#prompt textarea", "a photo of a {} on a lavender background")
    page.click("#draw")
    expect(page.locator("#own img")).to_be_visible(timeout=60_000)


def main() -> None:
    """Write all pictures."""
    FOLDER.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_studio(Path(folder), sampler_steps=30) as (url, _),
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
        page = opened(browser, url, DESK, "light")
        learn_a_mug(page, is_shown=True)
        write(step(page, 4), "gallery.png")
        page = opened(browser, url, DESK, "dark")
        learn_a_mug(page, is_shown=False)
        write(step(page, 5), "home-dark.png")
        page = opened(browser, url, PHONE, "light")
        learn_a_mug(page, is_shown=False)
        page.evaluate("window.scrollTo(0, 0)")
        page.wait_for_timeout(600)
        write(page.screenshot(full_page=True), "phone.png")
        browser.close()


def opened(browser: Browser, url: str, size: dict[str, int], scheme: str) -> Page:
    """Open the page in a window of a size, in light or dark mode."""
    page = browser.new_page(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(url)
    page.wait_for_selector("#picture input[type=file]", state="attached")
    return page


if __name__ == "__main__":
    main()
