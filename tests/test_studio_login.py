"""The studio as a Space: visitors log in with the Hub, keep their work meanwhile, and publish under their own name."""

import base64
import json
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlparse

import pytest
from conftest import ROOT, build_tiny_pipeline
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hub.client import client_environment
from hub.server import OTHER_TOKEN, WRITE_TOKEN, HubServer
from playwright.sync_api import Browser, expect
from test_studio import SCENE
from test_studio_in_a_browser import DESK, address_in, browser, upload

pytestmark = pytest.mark.slow
__all__ = ["browser"]

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SPACE = f"""
import runpy, sys
from diffusers_supreme_init import Describers
app = runpy.run_path({str(ROOT / "examples" / "space" / "app.py")!r})
settings = app["studio_settings"](sys.argv[1], Describers())
with app["open_studio"](settings) as studio:
    print(f"open at {{studio.url}}", flush=True)
    studio.wait()
"""


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(claims: dict[str, Any]) -> str:
    """Return claims as a token that the provider's key has signed."""
    text = ".".join(encoded(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "1"}, claims))
    return f"{text}.{encoded(KEY.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


class Provider(BaseHTTPRequestHandler):
    """A provider of logins by OpenID Connect, as the Hub is one: everybody is let in as the user."""

    nonces: dict[str, str] = {}  # noqa: RUF012 - of all requests

    def do_GET(self) -> None:
        asked = urlparse(self.path)
        query = {name: values[0] for name, values in parse_qs(asked.query).items()}
        if asked.path == "/oauth/authorize":
            code = secrets.token_hex()
            self.nonces[code] = query["nonce"]
            self.send_response(302)
            self.send_header(
                "Location", f"{query['redirect_uri']}&{urlencode({'code': code, 'state': query['state']})}"
            )
            self.end_headers()
        elif asked.path == "/jwks":
            numbers = KEY.public_key().public_numbers()
            parts = {"n": encoded(numbers.n.to_bytes(256, "big")), "e": encoded(numbers.e.to_bytes(3, "big"))}
            self.answer({"keys": [{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "1", **parts}]})
        else:
            paths = {"authorization_endpoint": "authorize", "token_endpoint": "token"}
            endpoints = {name: f"{self.url}/oauth/{path}" for name, path in paths.items()}
            self.answer({"issuer": self.url, "jwks_uri": f"{self.url}/jwks", **endpoints})

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        now = int(time.time())
        user = {"sub": "1", "name": "User", "preferred_username": "user", "profile": "", "picture": ""}
        about = {"iss": self.url, "aud": "space", "iat": now, "exp": now + 3600}
        token = signed(about | user | {"nonce": self.nonces.pop(form["code"][0])})
        rights = {"access_token": WRITE_TOKEN, "token_type": "bearer", "expires_in": 3600, "scope": "write-repos"}
        self.answer(rights | {"id_token": token})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, content: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def provider() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@contextmanager
def space(folder: Path, hub: HubServer) -> Iterator[str]:
    """Run the Space's own app as the Hub does, on a machine that is logged in as somebody else."""
    build_tiny_pipeline().save_pretrained(folder / "model")
    with provider() as openid:
        environment = client_environment(hub, folder, mode="lfs", token=OTHER_TOKEN) | {
            "SYSTEM": "spaces",
            "SPACE_ID": "other/space",
            "OAUTH_CLIENT_ID": "space",
            "OAUTH_CLIENT_SECRET": secrets.token_hex(),
            "OAUTH_SCOPES": "openid profile write-repos",
            "OPENID_PROVIDER_URL": openid,
        }
        log = folder / "log"
        with log.open("w") as written:
            command = [sys.executable, "-c", SPACE, str(folder / "model")]
            process = subprocess.Popen(command, env=environment, cwd=folder, stdout=written, stderr=written)
        try:
            yield address_in(log, process)
        finally:
            process.terminate()
            process.wait(30)


def test_visitors_of_a_space_publish_under_their_own_name(browser: Browser, tmp_path: Path) -> None:
    with HubServer("lfs") as hub, space(tmp_path, hub) as address:
        context = browser.new_context(viewport=DESK)
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("#picture input[type=file]", state="attached")
        upload(page, SCENE)
        page.fill("#words textarea, #words input", "a red mug")
        page.fill("#name textarea, #name input", "<mug>")
        page.fill("#steps input[type=number]", "1")
        page.keyboard.press("Tab")
        page.click("#learn")
        expect(page.locator("#download")).to_contain_text("mug.safetensors", timeout=120_000)

        page.get_by_role("button", name="Publish it on the Hugging Face Hub").click()
        page.fill("#repo textarea, #repo input", "user/mug")
        page.get_by_role("button", name="Publish", exact=True).click()
        expect(page.locator(".toast-body").first).to_contain_text("Log in with the link above first")
        assert not hub.has_repo("user/mug")

        with context.expect_page() as opened:
            page.get_by_role("link", name="Log in to Hugging Face").click()
        account = opened.value
        account.get_by_role("button", name="Sign in with Hugging Face").click()
        expect(account.get_by_role("button", name="Logout (user)")).to_be_visible(timeout=30_000)
        account.close()

        page.get_by_role("button", name="Publish", exact=True).click()
        expect(page.locator("#published")).to_contain_text(f"Published: {hub.url}/user/mug", timeout=60_000)
        assert "learned_embeds.safetensors" in hub.files("user/mug")

        stranger = browser.new_page()  # with cookies of their own
        stranger.goto(f"{address}account")
        expect(stranger.get_by_role("button", name="Sign in with Hugging Face")).to_be_visible(timeout=30_000)
        context.close()
