"""Refiners: a real server that misbehaves in every way, a key that shows up nowhere, a tiny language model."""

import copy
import json
import logging
import pickle
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny.describers import build_language_model, build_vit

from diffusers_supreme_init.describers.api_key import ApiKey
from diffusers_supreme_init.describers.endpoint import MAX_ANSWER_BYTES, EndpointRefiner
from diffusers_supreme_init.describers.local_refiner import LocalRefiner
from diffusers_supreme_init.describers.refiner import Refinement, RefinementStyle, refine
from diffusers_supreme_init.errors import ConfigError, DescriberError, SupremeInitWarning

KEY = "sk-Zx9'distinctive\"\\secret"
CAPTION = "there is a mug with a skull on it"


class Server(ThreadingHTTPServer):
    """Answers every request with `reply(handler)` and remembers all requests."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, reply: Callable[[BaseHTTPRequestHandler], None]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply = reply
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.closed = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        try:
            self.server.reply(self)
        except OSError:  # the client has gone away
            self.server.closed.set()

    def do_GET(self) -> None:  # what a followed redirect would become
        self.server.requests.append((self.path, dict(self.headers), None))

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def serving(reply: Callable[[Any], None]) -> Iterator[Server]:
    server = Server(reply)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def send(handler: Any, body: bytes, *, status: int = 200, reason: str | None = None, **headers: str) -> None:
    handler.send_response(status, reason)
    for name, value in ({"Content_Type": "application/json", "Content_Length": str(len(body))} | headers).items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def completion(content: Any, **choice: Any) -> bytes:
    return json.dumps(
        {"choices": [{"index": 0, "message": {"role": "assistant", "content": content}} | choice]}
    ).encode()


def replying(body: bytes, **options: Any) -> Callable[[Any], None]:
    return lambda handler: send(handler, body, **options)


def everything_shown(error: BaseException) -> str:
    """Return all that a chain of exceptions can show, with the local variables of all frames of the package."""
    shown, pending = [], [error]
    while pending:
        current = pending.pop()
        shown += [str(current), repr(current), *map(str, getattr(current, "__notes__", ()))]
        shown += traceback.TracebackException.from_exception(current).format()
        shown += [
            repr(value)
            for frame, _ in traceback.walk_tb(current.__traceback__)
            if "describers" in frame.f_code.co_filename
            for value in frame.f_locals.values()
        ]
        pending += [other for other in (current.__cause__, current.__context__) if other is not None]
    return "\n".join(shown)


def assert_hidden(*texts: str) -> None:
    for text in texts:
        for form in (KEY, repr(KEY)[1:-1], json.dumps(KEY)[1:-1], "distinctive", "Zx9"):
            assert form not in text


# The style


def test_the_question_holds_caption_and_controls() -> None:
    style = RefinementStyle(max_words=7, sentiment="positive", language="German")
    (message,) = style.messages("a {red} mug\nwith {caption} %s")
    assert message["role"] == "user"
    for part in ("about 7 words", "positive sentiment", "in German", "a {red} mug with {caption} %s"):
        assert part in message["content"]
    assert "Add nothing" in message["content"]
    assert "likely details" in RefinementStyle(keep_facts=False).messages("a mug")[0]["content"]
    assert RefinementStyle(language="{caption}").messages("a mug")[0]["content"].count("a mug") == 1


def test_an_instruction_replaces_the_question() -> None:
    style = RefinementStyle(instruction="{} Name it: {caption} {0}")
    assert style.messages("a {caption}") == [{"role": "user", "content": "{} Name it: a {caption} {0}"}]


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("max_words", 0, r"a whole number in \[1, 100\], got 0"),
        ("max_words", 101, r"a whole number in \[1, 100\], got 101"),
        ("max_words", 2.5, "a whole number"),
        ("max_words", True, "a whole number.*, got True"),
        ("sentiment", "sad", "one of .*'natural'.*, got 'sad'"),
        ("language", " ", "the name of a language"),
        ("language", "English\nand obey", "the name of a language"),
        ("instruction", "rewrite it", "'{caption}' exactly once, got it 0 times"),
        ("instruction", "{caption} {caption}", "'{caption}' exactly once, got it 2 times"),
        ("instruction", 3, "a text, or None.*, got int"),
    ],
)
def test_styles_out_of_range(setting: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"{setting}: expected {expected}"):
        RefinementStyle(**{setting: value})


# Falling back


def test_any_callable_refines() -> None:
    assert refine(lambda caption: f"  {caption.upper()}\n", "a mug") == Refinement("A MUG", None)


def broken(caption: str) -> str:
    raise KeyError("no\nsuch\nmug")


@pytest.mark.parametrize(
    ("refiner", "failure"),
    [
        (broken, "KeyError: 'no\\nsuch\\nmug'"),
        (lambda _: None, "expected a text, got NoneType"),
        (lambda _: b"a mug", "expected a text, got bytes"),
        (lambda _: "", "expected a text, got an empty one"),
        (lambda _: " \n\t", "expected a text, got an empty one"),
        (lambda _: "a \ud83d mug", "expected a text, got one with half characters (lone surrogates), which no "),
    ],
)
def test_a_refiner_that_fails_leaves_the_caption_and_warns_once(refiner: Any, failure: str) -> None:
    with pytest.warns(SupremeInitWarning, match="expected better words for 'there is a mug.*got none") as caught:
        refinement = refine(refiner, CAPTION)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert refinement.text == CAPTION
    assert refinement.failure is not None
    assert refinement.failure.startswith(failure)
    assert "\n" not in refinement.failure + str(caught[0].message)


def test_the_users_own_interrupt_is_not_swallowed() -> None:
    def interrupted(caption: str) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refine(interrupted, CAPTION)


# A server


def test_a_server_is_asked_and_answers() -> None:
    style = RefinementStyle(max_words=5)
    with serving(replying(completion("  a skull mug \n"))) as server:
        refiner = EndpointRefiner(server.url + "/", "tiny", api_key=KEY, style=style)
        assert server.requests == []
        assert refine(refiner, CAPTION) == Refinement("a skull mug", None)
        ((path, headers, body),) = server.requests
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in json.dumps(body)
    assert body.pop("messages") == style.messages(CAPTION)
    assert 5 <= body.pop("max_tokens") <= 100
    assert body == {"model": "tiny", "temperature": 0, "stream": False}


def test_without_a_key_none_is_sent_and_any_caption_can_be() -> None:
    with serving(replying(completion("ein Krug – ☕"))) as server:
        assert EndpointRefiner(server.url, "tiny")("{a} ☕ \ud83d\nmug") == "ein Krug – ☕"
        ((_, headers, body),) = server.requests
    assert "authorization" not in headers
    assert "{a} ☕ \ud83d mug" in body["messages"][0]["content"]


def test_nothing_is_contacted_before_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a connection")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, forbidden)
    repr(EndpointRefiner("http://example.com/v1", "tiny", api_key=KEY))
    assert "_loaded" not in vars(LocalRefiner("nobody/nothing"))


def test_only_a_plain_id_takes_a_revision(tmp_path: Path) -> None:
    for name in (tmp_path, str(tmp_path), "nobody/nothing@v1"):
        with pytest.raises(DescriberError, match="revision='v2': expected a Hub id without a revision, got "):
            LocalRefiner(name, revision="v2")
    assert LocalRefiner("nobody/nothing", revision="v2").revision == "v2"


def test_proxies_of_the_environment_are_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with serving(replying(completion("from the proxy"))) as proxy, serving(replying(completion("direct"))) as server:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.server_port}")
        assert EndpointRefiner(server.url, "tiny")(CAPTION) == "direct"
        assert EndpointRefiner("http://refiner.invalid/v1", "tiny")(CAPTION) == "from the proxy"
        monkeypatch.setenv("HTTP_PROXY", "gopher://127.0.0.1")
        with pytest.raises(DescriberError, match="got none .*proxy"):
            EndpointRefiner("http://refiner.invalid/v1", "tiny", api_key=KEY)(CAPTION)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            replying(b'{"error": {"message": "Incorrect API key", "code": 7}}', status=401),
            r"got HTTP status 401 \(Incorrect API key\); check api_key=",
        ),
        (
            replying(b'{"error": "model \\"tiny\\" not found,\\n try pulling it"}', status=404),
            r'got HTTP status 404 \(model "tiny" not found, try pulling it\); check base_url= .*/v1\) and model=',
        ),
        (replying(b'{"detail": "slow\\u001b[31m down"}', status=429), r"status 429 \(slow \[31m down\); wait"),
        (replying(b"<html>oops</html>", status=500), "got HTTP status 500; look into the server's log"),
        (replying(b"x" * 10_000_000, status=500), "got HTTP status 500; look"),
        (replying(json.dumps({"error": "very " * 200}).encode(), status=503), r"503 \((very )+ \.\.\.\); look"),
        (replying(b"<html></html>", Content_Type="text/html; charset=utf-8"), r"a JSON object, got .*\(text/html\)"),
        (replying(b""), r"a JSON object, got something else \(application/json\)"),
        (replying(b"[" * 100_000), "a JSON object, got something else"),
        (replying(b'["\xff"]'), "a JSON object, got something else"),
        (replying(b"{}"), r"expected choices\[0\].message.content, got JSON without it; check base_url="),
        (replying(b'{"choices": []}'), "got JSON without it"),
        (replying(b'{"choices": [3]}'), "got JSON without it"),
        (replying(b'{"choices": [{"text": "a mug"}]}'), "got JSON without it"),
        (replying(b'{"error": {"message": "no such model"}}'), r"got JSON without it \(no such model\)"),
        (replying(completion(None)), r"expected a text in choices\[0\].message.content, got NoneType; choose a chat"),
        (replying(completion(None, finish_reason="length")), "got NoneType; choose a model that does not think first"),
        (replying(completion([{"type": "text", "text": "a mug"}])), "expected a text .*, got list"),
        (replying(completion("x" * 10_000_000)), f"expected a caption, got more than {MAX_ANSWER_BYTES} bytes"),
        (
            lambda handler: handler.wfile.write(b"what?\r\n\r\n"),
            r"got none \(RemoteProtocolError: .*\); is the server",
        ),
        (lambda handler: None, r"got none \(RemoteProtocolError: .*disconnected"),
        (replying(b"", status=302, Location="http://[::1"), r"got none \(RemoteProtocolError: .*|HTTP status 302"),
        (replying(b"{}", Content_Length="9"), r"got none \(RemoteProtocolError: .*closed"),
    ],
)
def test_answers_that_are_no_caption(reply: Any, message: str) -> None:
    with serving(reply) as server:
        refiner = EndpointRefiner(server.url, "tiny", api_key=KEY, timeout=20)
        with pytest.raises(DescriberError, match=message) as raised:
            refiner(CAPTION)
    assert f"refiner 'tiny' at {server.url}: expected " in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 700
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None


def test_a_huge_answer_is_not_read_to_its_end() -> None:
    sent = 0

    def endless(handler: Any) -> None:
        nonlocal sent
        handler.send_response(200)
        handler.end_headers()
        while True:
            sent += handler.wfile.write(b" " * 65536)

    with serving(endless) as server:
        with pytest.raises(DescriberError, match="got more than 256000 bytes"):
            EndpointRefiner(server.url, "tiny", timeout=20)(CAPTION)
        assert server.closed.wait(10)
    assert sent < 50_000_000  # what fits the buffers of two sockets


def test_a_small_answer_cannot_unpack_into_a_huge_one() -> None:
    import gzip

    with serving(replying(gzip.compress(completion("x" * 10_000_000)), Content_Encoding="gzip")) as server:
        with pytest.raises(DescriberError, match="a JSON object, got something else"):
            EndpointRefiner(server.url, "tiny")(CAPTION)
        assert server.requests[0][1]["accept-encoding"] == "identity"


def silent(handler: Any) -> None:
    handler.server.closed.wait(30)


def trickling_headers(handler: Any) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nx: ")
    while True:
        handler.wfile.write(b"y")
        time.sleep(0.05)


def trickling_body(handler: Any) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b" ")
        time.sleep(0.05)


@pytest.mark.parametrize("reply", [silent, trickling_headers, trickling_body])
def test_the_timeout_bounds_the_whole_call(reply: Any) -> None:
    with serving(reply) as server:
        start = time.monotonic()
        with pytest.raises(DescriberError, match=r"got none \(no complete answer within timeout=0.4 seconds\)"):
            EndpointRefiner(server.url, "tiny", api_key=KEY, timeout=0.4)(CAPTION)
        assert time.monotonic() - start < 3
        if reply is not silent:
            assert server.closed.wait(10), "the abandoned call goes on"
        server.closed.set()


def test_the_timeout_bounds_the_lookup_of_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: done.wait(30) and [])
    with pytest.raises(DescriberError, match="no complete answer within timeout=0.2 seconds"):
        EndpointRefiner("http://refiner.invalid/v1", "tiny", timeout=0.2)(CAPTION)
    done.set()


def test_nobody_listens() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}/v1"
        with pytest.raises(DescriberError, match=r"got none \(ConnectError: .*refused\); is the server running"):
            EndpointRefiner(url, "tiny", api_key=KEY)(CAPTION)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(status: int) -> None:
    with serving(replying(completion("stolen"))) as other:
        location = f"{other.url}/chat/completions"
        with (
            serving(replying(b"", status=status, Location=location)) as server,
            pytest.raises(
                DescriberError, match=f"got HTTP status {status}; redirects are not followed, pass the final"
            ),
        ):
            EndpointRefiner(server.url, "tiny", api_key=KEY)(CAPTION)
        assert other.requests == []


# The key


def echo_in(where: str) -> Callable[[Any], None]:
    def reply(handler: Any) -> None:
        echo = handler.headers["authorization"]
        if where == "error":
            send(handler, json.dumps({"error": {"message": f"bad header {echo!r}: {echo}"}}).encode(), status=401)
        elif where == "long error":  # the cut must not leave half of the key
            send(handler, json.dumps({"error": "x" * 280 + echo}).encode(), status=401)
        elif where == "header":
            send(handler, b"{}", status=500, X_Echo=echo, Set_Cookie=f"key={echo}")
        elif where == "location":
            send(handler, b"", status=302, Location=f"http://{handler.headers['host']}/?{echo}")
        elif where == "type":
            send(handler, b"no", Content_Type=echo)
        elif where == "reason":
            send(handler, b"{}", status=403, reason=f"No {echo}")
        elif where == "status line":
            handler.wfile.write(f"{echo}\r\n\r\n".encode())
        elif where == "caption":
            send(handler, completion(f"a mug {echo}"))
        elif where == "slow header":
            handler.wfile.write(f"HTTP/1.1 200 OK\r\nx: {echo}\r\n\r\n".encode())
            handler.server.closed.wait(30)

    return reply


@pytest.mark.parametrize(
    "where", ["error", "long error", "header", "location", "type", "reason", "status line", "caption", "slow header"]
)
def test_a_server_that_echoes_the_key_does_not_make_us_tell_it(
    where: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    with serving(echo_in(where)) as server:
        refiner = EndpointRefiner(server.url, "tiny", api_key=KEY, timeout=1)
        with pytest.raises(DescriberError, match="refiner 'tiny'") as raised:
            refiner(CAPTION)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            refinement = refine(refiner, CAPTION)
        server.closed.set()
    assert refinement.text == CAPTION
    assert "receive_response_headers" in caplog.text, "nothing was logged, so nothing was tested"
    assert server.requests[0][1]["authorization"] == f"Bearer {KEY}"
    logged = [repr(vars(record)) for record in caplog.records]
    told = [str(warning.message) for warning in caught]
    assert_hidden(everything_shown(raised.value), str(refinement), *told, *logged, caplog.text, *capfd.readouterr())
    if where in ("error", "header"):
        assert "<hidden>" in str(raised.value) + caplog.text


def test_the_key_is_not_shown_by_the_refiner() -> None:
    refiner = EndpointRefiner("http://127.0.0.1:9/v1", "tiny", api_key=KEY)
    assert_hidden(repr(refiner), str(refiner), repr(vars(refiner)), f"{refiner!s:>10}")
    assert "'tiny'" in repr(refiner)
    revealing = EndpointRefiner(f"http://127.0.0.1:9/{KEY[-6:]}/v1", "tiny", api_key=KEY[-6:])
    assert KEY[-6:] not in repr(revealing)


def test_a_refiner_with_a_key_cannot_be_pickled_but_copied() -> None:
    refiner = EndpointRefiner("http://127.0.0.1:9/v1", "tiny", api_key=KEY)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(
            DescriberError, match="cannot pickle .* without api_key, got one with it.*; make the"
        ) as raised:
            pickle.dumps(refiner, protocol)
        assert_hidden(everything_shown(raised.value))
    with serving(replying(completion("a mug"))) as server:
        for made in (copy.copy(refiner), copy.deepcopy(refiner)):
            made.base_url = server.url
            made(CAPTION)
        assert [headers["authorization"] for _, headers, _ in server.requests] == [f"Bearer {KEY}"] * 2
        keyless = pickle.loads(pickle.dumps(EndpointRefiner(server.url, "tiny")))
        assert keyless(CAPTION) == "a mug"


def test_escapes_of_escapes_are_recognised() -> None:
    key = ApiKey(KEY)
    text = KEY
    for _ in range(3):
        text = repr(json.dumps(text))
        assert_hidden(key.redact(text))
    assert_hidden(key.redact(f"https://localhost/?{quote(KEY, safe='')}"))
    assert ApiKey(None).redact("None") == "None"


def test_a_stand_in_for_a_key_may_be_a_word_of_the_caption() -> None:
    with serving(replying(completion("a mug like none other"))) as server:
        assert EndpointRefiner(server.url, "tiny", api_key="none")(CAPTION) == "a mug like none other"


@pytest.mark.parametrize("key", ["", f"{KEY}\n", f"{KEY}\r\nX-Evil: 1", f" {KEY}", f"{KEY}\x00", f"{KEY}é"])
def test_keys_that_cannot_be_sent(key: str) -> None:
    with pytest.raises(
        ConfigError, match="api_key: expected visible ASCII characters, got .*not shown.*key.strip"
    ) as e:
        EndpointRefiner("http://127.0.0.1:9/v1", "tiny", api_key=key)
    assert_hidden(str(e.value), repr(e.value))
    with pytest.raises(ConfigError, match="api_key: expected a text, or None, got bytes"):
        EndpointRefiner("http://127.0.0.1:9/v1", "tiny", api_key=b"key")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("base_url", "message"),
    [
        ("localhost:11434/v1", "expected an http or https address such as .*, got 'localhost:11434/v1'"),
        ("ftp://localhost/v1", "expected an http or https address"),
        ("file:///etc/passwd", "expected an http or https address"),
        ("http://", "expected an http or https address"),
        ("http:///v1", "expected an http or https address"),
        ("http://localhost:99999", "expected an http or https address"),
        ("http://localhost:x/", "expected an http or https address"),
        ("http://[::1", "expected an http or https address"),
        ("http://local host/v1", "expected an http or https address"),
        ("http://localhost/v1\n", "expected an http or https address"),
        ("", "expected an http or https address"),
        (f"https://me:{KEY}@localhost/v1", "expected no user or password in the address.*; pass api_key="),
        (f"me:{KEY}@localhost/v1", "expected no user or password in the address.*; pass api_key="),
        (f"https://localhost/v1?key={KEY}", "expected an address without query"),
        ("https://localhost/v1#top", "expected an address without query"),
        (None, "expected a text, got NoneType"),
    ],
)
def test_addresses_that_cannot_work(base_url: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"base_url: {message}") as raised:
        EndpointRefiner(base_url, "tiny", api_key="other")
    assert_hidden(str(raised.value), repr(raised.value.__context__))


def test_other_arguments_that_cannot_work() -> None:
    for model in ("", " ", None):
        with pytest.raises(ConfigError, match="model: expected the name of a model on the server, got"):
            EndpointRefiner("http://127.0.0.1:9/v1", model)  # type: ignore[arg-type]
    for timeout in (0, -1, float("inf"), float("nan"), "30", True):
        with pytest.raises(ConfigError, match="timeout: expected seconds above 0, got"):
            EndpointRefiner("http://127.0.0.1:9/v1", "tiny", timeout=timeout)  # type: ignore[arg-type]


# A model on this machine


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_language_model(tmp_path_factory.mktemp("language_model"))


@pytest.fixture
def broken_model(language_model: Path, tmp_path: Path) -> Callable[[Callable[[Path], None]], Path]:
    """Call it with what breaks a copy of the language model."""

    def make(damage: Callable[[Path], None]) -> Path:
        for file in language_model.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        damage(tmp_path)
        return tmp_path

    return make


def test_a_local_model_answers_the_same_each_time(language_model: Path) -> None:
    refiner = LocalRefiner(language_model, style=RefinementStyle(max_words=1), device="cpu")
    torch.manual_seed(1)
    first = refiner(CAPTION)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert refiner(CAPTION) == first == first.strip() != ""
    assert torch.equal(torch.get_rng_state(), state)
    assert "noun phrase" not in first, "only the new tokens are the answer"
    assert refine(refiner, CAPTION) == Refinement(first, None)
    assert len(first.split()) <= refiner.style.max_new_tokens
    assert {weight.dtype for weight in refiner._loaded[1].parameters()} == {torch.float32}
    half = LocalRefiner(str(language_model), style=RefinementStyle(max_words=1), dtype=torch.bfloat16, device="cpu")
    assert half(CAPTION)
    assert {weight.dtype for weight in half._loaded[1].parameters()} == {torch.bfloat16}


def test_a_model_without_chat_template(broken_model: Any) -> None:
    def damage(folder: Path) -> None:
        (folder / "chat_template.jinja").unlink()

    with pytest.raises(DescriberError, match="expected a model with a chat template, got .*which has none; choose"):
        LocalRefiner(broken_model(damage))(CAPTION)


def test_a_chat_template_that_refuses(broken_model: Any) -> None:
    def damage(folder: Path) -> None:
        (folder / "chat_template.jinja").write_text("{{ raise_exception('no thanks') }}")

    with pytest.raises(DescriberError, match=r"expected an answer, got TemplateError \(no thanks\); choose another"):
        LocalRefiner(broken_model(damage))(CAPTION)


def test_a_model_without_output_weights(broken_model: Any) -> None:
    def damage(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        save_file(
            {name: value for name, value in weights.items() if name != "lm_head.weight"},
            folder / "model.safetensors",
            metadata={"format": "pt"},
        )

    with pytest.raises(DescriberError, match="expected a causal language model, got .*lacks weights .*lm_head.weight"):
        LocalRefiner(broken_model(damage))(CAPTION)


@pytest.mark.parametrize("with_config", [True, False])
def test_an_adapter_does_not_pull_another_model(broken_model: Any, with_config: bool) -> None:
    def damage(folder: Path) -> None:
        adapter = {"peft_type": "LORA", "base_model_name_or_path": "nobody/named-this"}
        (folder / "adapter_config.json").write_text(json.dumps(adapter))
        if not with_config:
            (folder / "config.json").unlink()

    with pytest.raises(DescriberError, match="expected a whole model, got .*an adapter of another one; merge it"):
        LocalRefiner(broken_model(damage))(CAPTION)


def test_code_of_a_repository_is_never_run(broken_model: Any, capfd: pytest.CaptureFixture[str]) -> None:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": "unheard-of", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "evil.py").write_text("print('PWNED')")

    with pytest.raises(DescriberError, match="expected a model that transformers can use as a refiner"):
        LocalRefiner(broken_model(damage))(CAPTION)
    assert "PWNED" not in "".join(capfd.readouterr())


def test_models_that_are_no_causal_language_model(tmp_path: Path, language_model: Path) -> None:
    with pytest.raises(DescriberError, match="refiner: expected .*, got "):
        LocalRefiner(build_vit(tmp_path / "vit"))(CAPTION)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / "vit" / name).write_bytes((language_model / name).read_bytes())
    with pytest.raises(
        DescriberError, match="expected a model that transformers can use as a refiner, got .*ViTConfig"
    ):
        LocalRefiner(tmp_path / "vit")(CAPTION)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DescriberError, match="refiner: expected .*empty"):
        LocalRefiner(tmp_path / "empty")(CAPTION)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "../nowhere", "~/nowhere", Path("nowhere/model")])
def test_folders_that_do_not_exist(name: str | Path) -> None:
    with pytest.raises(
        DescriberError, match="expected a folder with a model or an id on the Hub, got .*which is not a folder"
    ):
        LocalRefiner(name)(CAPTION)


def test_models_that_the_hub_does_not_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DescriberError, match="expected a folder .*or an id on the Hub, got 'nobody/no-model@v1'"):
        LocalRefiner("nobody/no-model@v1")(CAPTION)
