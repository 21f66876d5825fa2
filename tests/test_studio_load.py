"""The studio with twenty visitors at once: nobody sees another's picture, nothing fails, nothing stays."""

import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from gradio_client import Client, handle_file
from PIL import Image, ImageDraw
from test_studio_in_a_browser import running_studio

pytestmark = pytest.mark.slow

NUM_VISITORS, NUM_TRAINING = 20, 3
SECONDS, SECONDS_AFTER = 120, 30


def own_picture(number: int, folder: Path) -> Path:
    """Return a picture in a color that nobody else has, with something to see in it."""
    picture = Image.new("RGB", (128, 128), (10 * number + 5, 250 - 10 * number, 128))
    ImageDraw.Draw(picture).ellipse((40, 40, 90, 90), fill="white", outline="black")
    picture.save(folder / f"{number}.png")
    return folder / f"{number}.png"


def color_of(path: str) -> tuple[int, ...]:
    return tuple(np.asarray(Image.open(path).convert("RGB"))[0, 0].tolist())


class Visitor(threading.Thread):
    """Uploads, clicks and asks for words again and again, or trains and draws, and looks whose picture comes back."""

    def __init__(self, number: int, url: str, picture: Path, seconds: float) -> None:
        super().__init__()
        self.number, self.url, self.picture = number, url, picture
        self.end = time.monotonic() + seconds
        self.num_calls, self.wrong = 0, list[str]()

    def run(self) -> None:
        try:
            client = Client(self.url, verbose=False)
            while time.monotonic() < self.end:
                self.look(client)
                if self.number < NUM_TRAINING:
                    self.train(client)
            client.close()
        except Exception as error:
            self.wrong.append(repr(error))

    def look(self, client: Client) -> None:
        overview, _, _, _ = client.predict(handle_file(str(self.picture)), api_name="/open_picture")
        clicked, crop, _, _ = client.predict("64, 64", "this", api_name="/add_point")
        whole, crop, _, _ = client.predict(api_name="/clear_points")
        for shown in (overview, whole, crop):
            if color_of(shown) != color_of(str(self.picture)):
                self.wrong.append(f"{self.number} got another's picture")
        assert Image.open(clicked).size == Image.open(overview).size
        client.predict(f"a ball number {self.number}", api_name="/read_words")
        self.num_calls += 4

    def train(self, client: Client) -> None:
        token, words = f"<ball-{self.number}>", f"a ball number {self.number}"
        *_, last = client.submit(token, words, 2, 2, None, 2, 0.25, 0, api_name="/learn")
        if (last[0]["token"], last[0]["words"]) != (token, words):
            self.wrong.append(f"{self.number} got another's word")
        _, told, code, here = client.predict(api_name="/take_home")
        if token not in code or words not in told or here.count("&lt;") != 1:
            self.wrong.append(f"{self.number} got another's result")
        gallery = client.predict(0, api_name="/draw_gallery")
        if not all(token in shown["caption"] for shown in gallery):
            self.wrong.append(f"{self.number} got another's gallery")
        self.num_calls += 3


def visit_at_once(url: str, folder: Path, count: int, seconds: float) -> list[Visitor]:
    visitors = [Visitor(number, url, own_picture(number, folder), seconds) for number in range(count)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    return visitors


def test_twenty_visitors_at_once(tmp_path: Path) -> None:
    with running_studio(tmp_path, sampler_steps=2) as (url, process):
        visit_at_once(url, tmp_path, NUM_VISITORS, 20)  # what any first call allocates, threads among it
        time.sleep(SECONDS_AFTER)
        memory = psutil.Process(process.pid).memory_info
        before = memory().rss
        visitors = visit_at_once(url, tmp_path, NUM_VISITORS, SECONDS)
        time.sleep(SECONDS_AFTER)
        after = memory().rss
    assert [wrong for visitor in visitors for wrong in visitor.wrong] == []
    calls = [visitor.num_calls for visitor in visitors]
    print(
        f"{sum(calls)} calls, {min(calls)} to {max(calls)} each; {before / 1e6:.0f} MB before, {after / 1e6:.0f} after"
    )
    assert min(calls) > 0
    assert after <= 1.1 * before
