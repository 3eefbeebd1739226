"""The playground without a browser: who gets it, its headers, its files. tests/browser opens it in one."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import httpx2
import internvl_server
import pytest
from internvl_server import __version__

from tests.live_server import LiveServer

FOLDER = Path(internvl_server.__file__).parent / "playground"
OWN = [
    path for path in sorted(FOLDER.rglob("*")) if path.is_file() and path.parent.name != "vendor"
]
BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
POLICY = {
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' data: blob:",
    "media-src blob: data:", "connect-src 'self'", "base-uri 'none'", "form-action 'none'",
    "frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types dompurify",
}  # fmt: skip


@pytest.mark.parametrize(
    "accept", [BROWSER["accept"], "text/html", "application/json;q=0.5, text/html"]
)
def test_browsers_get_the_page(echo_server: LiveServer, accept: str) -> None:
    page = echo_server.get("/", headers={"accept": accept})
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.text == (FOLDER / "index.html").read_text(encoding="utf-8")
    assert (
        httpx2.head(echo_server.url + "/", headers={"accept": accept}, timeout=60).headers[
            "content-length"
        ]
        == (page.headers["content-length"])
    )


@pytest.mark.parametrize(
    "accept", ["*/*", "", "application/json", "application/json, text/html;q=0.9", "text/html;q=x"]
)
def test_programs_get_json(echo_server: LiveServer, accept: str) -> None:
    answer = echo_server.get("/", headers={"accept": accept})
    assert answer.json()["version"] == __version__
    assert answer.headers["vary"] == "accept"


def test_the_page_may_load_nothing_from_elsewhere(echo_server: LiveServer) -> None:
    headers = echo_server.get("/", headers=BROWSER).headers
    assert set(headers["content-security-policy"].split("; ")) == POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["permissions-policy"] == "camera=(self), microphone=(), geolocation=()"
    assert headers["vary"] == "accept"


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_own_files_name_no_other_host_and_have_no_inline_code(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//\w+\.\w", text)
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", text)
    assert not re.search(r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval)\b", text)


def test_every_file_is_served_and_reached_from_the_page(echo_server: LiveServer) -> None:
    """From `index.html` over the imports; the only others are licences and the list of versions."""
    waiting, seen = ["index.html"], set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        text = (FOLDER / name).read_text(encoding="utf-8")
        here = FOLDER if name == "index.html" else (FOLDER / name).parent
        linked = re.findall(r'(?:href|src)="playground/([^"]+)"', text)
        imported = re.findall(r'^import .*?"(\.[^"]+)";$', text, re.M | re.S)
        found = [*linked, *((here / i).resolve().relative_to(FOLDER).as_posix() for i in imported)]
        waiting += [other for other in found if other not in seen]
    every = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    assert {n for n in every - seen if not n.endswith((".LICENSE", "versions.json"))} == set()
    types = {".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css"}
    for name in every:
        answer = echo_server.get(f"/playground/{name}")
        assert answer.content == (FOLDER / name).read_bytes()
        kind = types.get(Path(name).suffix)
        assert kind is None or answer.headers["content-type"].startswith(kind)


def test_browsers_keep_what_has_not_changed(echo_server: LiveServer) -> None:
    path = "/playground/code/main.js"
    first = echo_server.get(path)
    assert first.headers["cache-control"] == "no-cache"
    again = echo_server.get(path, headers={"if-none-match": f'"x", {first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert echo_server.get(path, headers={"if-none-match": '"x"'}).status_code == 200


@pytest.mark.parametrize(
    "name", ["", "nope.js", "../app.py", "%2e%2e/app.py", "code", "code/../../app.py"]
)
def test_no_other_file_can_be_read(echo_server: LiveServer, name: str) -> None:
    answer = echo_server.get(f"/playground/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"]


def test_the_page_needs_no_key_and_its_requests_do(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(server={"api_keys": ["secret"]})
    assert server.get("/", headers=BROWSER).text.startswith("<!doctype html>")
    assert server.get("/playground/code/main.js").status_code == 200
    assert server.get("/v1/models").status_code == 401


def test_it_can_be_turned_off(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(server={"playground": False})
    assert server.get("/", headers=BROWSER).json()["version"] == __version__
    assert server.get("/playground/code/main.js").status_code == 404


def test_vendored_files_are_those_that_were_published() -> None:
    """As npm has them; the hashes were taken from the packages. Each has its licence beside it."""
    vendored = json.loads((FOLDER / "vendor/versions.json").read_text(encoding="utf-8"))
    names = {"versions.json"}
    for entry in vendored:
        body = (FOLDER / "vendor" / entry["file"]).read_bytes()
        assert hashlib.sha256(body).hexdigest() == entry["sha256"]
        assert entry["version"].encode() in body[:400]
        licence = (FOLDER / "vendor" / entry["licence_file"]).read_text(encoding="utf-8")
        assert "Copyright" in licence
        names |= {entry["file"], entry["licence_file"]}
    assert {path.name for path in (FOLDER / "vendor").iterdir()} == names
