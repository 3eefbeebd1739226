"""What the playground keeps, below which paths it works, and what it copies."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from internvl_server.protocol.chat.request import parse_chat_request

from tests.browser.steps import Playground
from tests.live_server import LiveServer

pytestmark = pytest.mark.browser


def test_a_reload_keeps_the_conversation(playground: Playground, pictures: Path) -> None:
    playground.attach(pictures / "example.jpg")
    playground.set("temperature", 0)
    answer = playground.ask("Describe the image.")
    before = playground.bodies[-1]
    playground.open()
    page = playground.page
    page.wait_for_selector("#turns > li:nth-child(2)")
    assert page.inner_text("#turns .markdown") == answer
    playground.until("document.querySelector('#turns .picture img').naturalWidth > 0")
    assert page.input_value("#set-temperature") == "0"
    playground.page.click("[aria-label='Answer again']")
    playground.wait_answer()
    assert playground.bodies[-1] == before


def test_conversations_are_renamed_exported_imported_and_deleted(
    playground: Playground, pictures: Path, tmp_path: Path
) -> None:
    page = playground.page
    playground.attach(pictures / "example.jpg")
    answer = playground.ask("Describe the image.")
    page.click("[aria-label='Rename Describe the image.']")
    page.fill("[aria-label='New name']", "Shapes")
    page.keyboard.press("Enter")
    page.wait_for_selector("#conversations >> text=Shapes")
    with page.expect_download() as download:
        page.click("#export")
    file = tmp_path / "export.json"
    download.value.save_as(file)
    page.on("dialog", lambda dialog: dialog.accept())
    page.click("[aria-label='Delete Shapes']")
    page.wait_for_selector("#conversations > li", state="detached")
    assert page.locator("#turns > li").count() == 0
    page.set_input_files("#import-file", str(file))
    page.click("#conversations >> text=Shapes")
    assert page.inner_text("#turns .markdown") == answer
    playground.until("document.querySelector('#turns .picture img').naturalWidth > 0")
    file.write_text('{"format": "another"}')
    page.set_input_files("#import-file", str(file))
    page.wait_for_selector("#notice >> text=not an export")


def test_a_strange_import_does_no_harm(
    open_page: Callable[..., Playground], tmp_path: Path
) -> None:
    """Whatever types a file has: what can be shown is shown, as text. Its picture cannot be counted."""
    playground = open_page(allowed_errors=("status of 400",))
    picture = "data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9ImFsZXJ0KDEpIi8+"
    media = [
        {"kind": 7, "name": ["<b>"], "blob": picture, "tiling": {"grid": "x"}, "isShown": True}
    ]
    turns = [
        {"role": "user", "text": {"a": 1}, "media": media},
        {"role": "assistant", "text": "<img src=x onerror=window.hacked=1>",
         "usage": {"prompt_tokens": "<b>"}, "calls": [{"name": "<i>", "arguments": 7}],
         "error": {"message": "<u>", "advice": 3}},
    ]  # fmt: skip
    file = tmp_path / "strange.json"
    strange = {"title": "<script>", "turns": turns, "created": "x"}
    file.write_text(json.dumps({"format": "internvl-playground-1", "conversations": [strange]}))
    playground.page.set_input_files("#import-file", str(file))
    playground.page.click("#conversations >> text=<script>")
    playground.page.wait_for_selector("#turns .turn-foot")
    assert playground.page.locator("#turns b, #turns i, #turns u, #turns script").count() == 0
    assert playground.page.evaluate("window.hacked") is None


class Proxy(BaseHTTPRequestHandler):
    """Passes on what is below /internvl/ without that part of the path, and streams answers."""

    target = ""
    max_pieces: int | None = None  # of an answer of the model, which then breaks off
    promised_bytes = 0

    def do_GET(self) -> None:
        self._pass_on()

    do_POST = do_GET  # noqa: N815

    def _pass_on(self) -> None:
        if not self.path.startswith("/internvl/"):
            self.send_error(404)
            return
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
        url = self.target + self.path.removeprefix("/internvl")
        with httpx2.stream(self.command, url, content=body, headers=headers, timeout=60) as answer:
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                if name not in ("connection", "transfer-encoding", "date"):
                    self.send_header(name, value)
            is_answer = self.path.endswith("/chat/completions")
            if is_answer and self.promised_bytes:
                self.send_header("content-length", str(self.promised_bytes))
            self.end_headers()
            for number, piece in enumerate(answer.iter_raw(), 1):
                self.wfile.write(piece)
                self.wfile.flush()
                if is_answer and number == self.max_pieces:
                    return

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def start_proxy(demo: LiveServer) -> Iterator[Callable[..., str]]:
    """Starts proxies before the server, with attributes of `Proxy`; returns their addresses."""
    running = []

    def start(**options: int) -> str:
        handler = type("Handler", (Proxy,), {"target": demo.url} | options)
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_address[1]}/internvl/"

    yield start
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


def test_it_works_below_the_path_of_a_proxy(
    open_page: Callable[..., Playground], start_proxy: Callable[..., str]
) -> None:
    playground = open_page(start_proxy())
    playground.set("temperature", 0)
    assert playground.ask("Who are you?").startswith("I am the small demo model")


@pytest.mark.parametrize("promised_bytes", [0, 1_000_000])
def test_an_answer_that_breaks_off_is_an_error(
    open_page: Callable[..., Playground],
    start_proxy: Callable[..., str],
    demo: LiveServer,
    promised_bytes: int,
) -> None:
    """Whether the connection ends in order or not. What had come is kept."""
    url = start_proxy(max_pieces=3, promised_bytes=promised_bytes)
    playground = open_page(url, allowed_errors=("net::ERR_CONTENT_LENGTH_MISMATCH",))
    assert playground.ask("Who are you?")
    code = "connection_lost" if promised_bytes else "stream_ended"
    assert playground.page.inner_text(".failure strong") == f"Error · {code}"
    demo.wait_idle(60)


def copied(playground: Playground, name: str) -> str:
    page = playground.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#open-code")
    if name != "curl":
        page.click(f"dialog summary:has-text('{name}')")
    page.click(f"dialog [aria-label='Copy {name}']")
    page.wait_for_selector("dialog >> text=Copied.")
    return str(page.evaluate("navigator.clipboard.readText()"))


def streamed(lines: str) -> str:
    chunks = [json.loads(x[6:]) for x in lines.splitlines() if x.startswith("data: {")]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def test_everything_works_without_https(
    open_page: Callable[..., Playground], demo: LiveServer
) -> None:
    """Pages of other hosts over HTTP have no clipboard, no camera and no random ids."""
    playground = open_page(f"http://playground.test:{demo.port}/")
    page = playground.page
    assert not page.evaluate("isSecureContext")
    playground.set("temperature", 0)
    answer = playground.ask("Who are you?")
    page.click("[aria-label='Copy the answer']")
    page.fill("#message", "")
    page.keyboard.press("Control+V")
    assert page.input_value("#message") == answer
    page.click("#open-code")
    page.click("dialog [aria-label='Copy curl']")
    page.wait_for_selector("dialog >> text=Copied.")
    page.keyboard.press("Escape")
    page.fill("#message", "")
    page.keyboard.press("Control+V")
    assert page.input_value("#message").startswith("curl -sSN ")
    with page.expect_file_chooser():
        page.click("#photograph")


@pytest.fixture
def asked(playground: Playground, pictures: Path) -> Playground:
    """A page after a request with a picture, text with quotes, and extensions of this server."""
    playground.attach(pictures / "example.jpg")
    playground.set("temperature", 0)
    playground.set("top_k", 5)
    playground.set("max_tiles", 4)
    playground.set("system", 'Say "it\'s" — never $HOME or `ls`.\\n')
    playground.ask("Describe the image.")
    return playground


@pytest.mark.parametrize("name", ["curl", "Python"])
def test_copied_programs_send_the_same_request(
    asked: Playground, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = copied(asked, name)
    answer = asked.page.inner_text("#turns .markdown")
    command = ["bash", "-c", text] if name == "curl" else [sys.executable, "-c", text]
    received = received_bodies(monkeypatch)
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    assert (streamed(printed) if name == "curl" else printed.strip()) == answer
    assert asked.bodies[-1] in received  # beside what the page had counted meanwhile


def received_bodies(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The bodies of chat requests, as the server gets them from now on."""
    found: list[dict[str, Any]] = []

    def note(body: bytes, *arguments: Any, **options: Any) -> Any:
        found.append(json.loads(body))
        return parse_chat_request(body, *arguments, **options)

    monkeypatch.setattr("internvl_server.api.routes.chat.parse_chat_request", note)
    return found


def test_the_copied_javascript_has_the_same_request(asked: Playground) -> None:
    text = copied(asked, "JavaScript")
    body = text.partition("completions.create(")[2].partition(");\nfor await")[0]
    assert json.loads(body) == asked.bodies[-1]
    assert '/v1"' in text
