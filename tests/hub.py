"""A Hugging Face hub on loopback: the few endpoints that a download needs, and the faults of a network."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"

_API = re.compile(r"/api/models/(?P<name>[^/]+/[^/]+)(?:/revision/(?P<revision>[^/?]+))?")
_FILE = re.compile(r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


@dataclass
class Hub:
    """What the hub has, how it fails, and which requests it got.

    Attributes:
        repositories: Files by name, by repository.
        refusals: Status and `X-Error-Code` of the repositories that are refused.
        sizes: Sizes that the hub states wrongly, by file.
        cuts: Bytes of a file after which the connection breaks, once each.
        broken: Files that are answered with 503 after their cut.
        held: Files that stop after their cut, until the hub ends.
        got: The files that were asked for, each with the header Range.
    """

    repositories: Mapping[str, Mapping[str, bytes]]
    refusals: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    cuts: dict[str, int] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    got: list[tuple[str, str | None]] = field(default_factory=list)
    reached: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    url: str = ""


@contextmanager
def serve_hub(hub: Hub) -> Iterator[Hub]:
    """Answer on a free port of 127.0.0.1."""

    class Handler(_Handler):
        served = hub

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield hub
        finally:
            hub.ended.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        match = _API.fullmatch(path) or _FILE.fullmatch(path)
        assert match, path
        name, revision = match["name"], match["revision"] or "main"
        files = self.served.repositories.get(name)
        if refusal := self.served.refusals.get(name):
            self._refuse(*refusal)
        elif files is None:
            self._refuse(404, "RepoNotFound")
        elif revision not in ("main", COMMIT):
            self._refuse(404, "RevisionNotFound")
        elif file := match.groupdict().get("file"):
            self._send_file(file, files[file])
        else:
            self._send_list(name, files)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_list(self, name: str, files: Mapping[str, bytes]) -> None:
        sizes = {file: len(data) for file, data in files.items()} | self.served.sizes
        listed = [{"rfilename": file, "size": sizes[file]} for file in files]
        body = json.dumps({"id": name, "sha": COMMIT, "siblings": listed}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_file(self, file: str, data: bytes) -> None:
        hub, asked = self.served, self.headers.get("Range")
        cut = None
        if self.command == "GET":
            hub.got.append((file, asked))
            cut = hub.cuts.pop(file, None)
            if cut is None and file in hub.broken:
                self._refuse(503, "Unavailable")
                return
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        rest = data[start:]
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(rest)))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(rest[:cut])
        if cut is not None:
            self.close_connection = True
            self.wfile.flush()
            hub.reached.set()
            if file in hub.held:
                hub.ended.wait()
