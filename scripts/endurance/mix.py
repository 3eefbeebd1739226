"""Mixed requests: good ones of every dialect, hostile ones, and ones whose client leaves."""

import base64
import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.bad_input.cases import read_cases, request_of, shortened
from scripts.load.accounts.exchange import STAY, Leave, request_bytes
from scripts.load.bodies import picture_file
from scripts.load.media_host import MediaHost

__all__ = ["Mix", "Shot", "hostile_requests"]

_ROOT = Path(__file__).parents[2]
_WORDS = (_ROOT / "README.md").read_text(encoding="utf-8").split()
_VIDEO = (_ROOT / "tests/data/example.mp4").read_bytes()
_NO_HOST = re.compile(rb"\{(?:host|silent|closed|tls|\w+port)\}")  # places that nobody has here
_SIZES = (160, 120), (320, 240), (448, 448), (640, 360), (896, 448), (1280, 720)


@dataclass(frozen=True)
class Shot:
    """A request; `is_good` if it must be completed, `may_close` if it need not be answered."""

    name: str
    request: bytes
    leave: Leave = STAY
    is_good: bool = True
    may_close: bool = False


def hostile_requests(path: Path | None, host: MediaHost) -> list[Shot]:
    """Those of the corpus of the tests that need no host of their own and are quick, or those of a file.

    Args:
        path: A file of lines, each an object with an `id`, a `request` in latin-1, and its right `status`: a
            list, in which null is a closed connection.
        host: Stands for the host of pictures in the corpus.
    """
    if path is None:
        paths = sorted((_ROOT / "tests/corpus").glob("*.jsonl"))
        cases = [case for case in shortened(read_cases(paths), 10) if case.steps is None]
    else:
        cases = read_cases([path])
    requests = [(case, _placed(request_of(case.data), host)) for case in cases]
    return [
        Shot(f"hostile {case.id}", request, is_good=False, may_close=None in case.status)
        for case, request in requests
        if not (case.needs_namespace or _NO_HOST.search(request))
    ]


def _placed(request: str, host: MediaHost) -> bytes:
    """A request with the places of the corpus filled in."""
    names = {"auth": "", "key": "none", "media": f"{host.HOST}:{host.port}", "sentinel": "9"}
    for name, value in names.items():
        request = request.replace(f"{{{name}}}", value)
    head, separator, body = request.partition("\r\n\r\n")
    return f"{head.replace('{length}', str(len(body)))}{separator}{body}".encode("latin-1")


@dataclass
class Mix:
    """Endless requests: pictures, videos, texts and schemas differ from all before.

    Args:
        model: Its name.
        host: Of the pictures that are fetched.
        hostile: A tenth of the requests are of these.
        seed: Of all that is random.
        max_tokens: Of an answer, at most.
    """

    model: str
    host: MediaHost
    hostile: list[Shot]
    seed: int = 0
    max_tokens: int = 24
    _number: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._kinds: dict[str, tuple[Callable[[], tuple[str, dict[str, Any]]], int]] = {
            "text": (self._chat_text, 20),
            "raw text": (self._completion, 10),
            "inline picture": (self._chat_picture, 20),
            "fetched picture": (self._chat_fetched, 10),
            "response": (self._response, 15),
            "message": (self._message, 15),
            "schema": (self._schema, 5),
            "video": (self._video, 2),
            "count": (self._count, 3),
        }

    def __iter__(self) -> Iterator[Shot]:
        """A tenth hostile, a tenth of clients that leave, the rest good."""
        names, weights = list(self._kinds), [weight for _, weight in self._kinds.values()]
        while True:
            share = self._random.random()
            if share < 0.1 and self.hostile:
                yield self._random.choice(self.hostile)
                continue
            [name] = self._random.choices(names, weights)
            shot = self._shot(name)
            leave = self._departure(len(shot.request)) if share > 0.9 else STAY
            yield Shot(shot.name, shot.request, leave, is_good=leave is STAY)

    def every_kind(self, count: int) -> list[Shot]:
        """So many good requests of each kind."""
        return [self._shot(name) for name in self._kinds for _ in range(count)]

    def _shot(self, name: str) -> Shot:
        self._number += 1
        make, _ = self._kinds[name]
        path, body = make()
        return Shot(name, request_bytes(path, json.dumps({"model": self.model} | body).encode()))

    def _departure(self, size: int) -> Leave:
        """At any stage: while the request is sent, while it waits or is prepared, in its answer."""
        return self._random.choice(
            [
                Leave(after_sent=self._random.randrange(1, size)),
                Leave(after_s=self._random.expovariate(4)),
                Leave(after_received=self._random.randrange(1, 3000)),
            ]
        )

    def _text(self) -> str:
        words = self._random.choices(_WORDS, k=self._random.randrange(4, 60))
        return f"{self._number}: {' '.join(words)}"

    def _picture(self) -> bytes:
        return picture_file(*self._random.choice(_SIZES), self._unique())

    def _unique(self) -> int:
        return (self.seed << 32) + self._number

    def _url(self) -> str:
        return "data:image/jpeg;base64," + base64.b64encode(self._picture()).decode()

    def _fields(self, limit: str = "max_tokens", least: int = 1) -> dict[str, Any]:
        return {
            limit: self._random.randrange(least, max(least + 1, self.max_tokens)),
            "stream": self._random.random() < 0.6,
        }

    def _chat(self, content: Any, **fields: Any) -> tuple[str, dict[str, Any]]:
        every = self._fields() | {"messages": [{"role": "user", "content": content}]}
        return "/v1/chat/completions", every | fields

    def _chat_text(self) -> tuple[str, dict[str, Any]]:
        extra = self._random.choice([{}, {}, {"n": 2}, {"stop": ["zzz", "\n\n"]}, {"seed": 1}])
        return self._chat(self._text(), **extra)

    def _chat_picture(self) -> tuple[str, dict[str, Any]]:
        count = self._random.choice([1, 1, 1, 2])
        parts = [{"type": "image_url", "image_url": {"url": self._url()}} for _ in range(count)]
        return self._chat([*parts, {"type": "text", "text": self._text()}])

    def _chat_fetched(self) -> tuple[str, dict[str, Any]]:
        url = self.host.url(*self._random.choice(_SIZES), self._unique())
        part = {"type": "image_url", "image_url": {"url": url}}
        return self._chat([part, {"type": "text", "text": self._text()}])

    def _completion(self) -> tuple[str, dict[str, Any]]:
        return "/v1/completions", self._fields() | {"prompt": self._text()}

    def _response(self) -> tuple[str, dict[str, Any]]:
        parts: list[dict[str, Any]] = [{"type": "input_text", "text": self._text()}]
        if self._random.random() < 0.5:
            parts.insert(0, {"type": "input_image", "image_url": self._url()})
        fields = self._fields("max_output_tokens", least=16)
        return "/v1/responses", fields | {"input": [{"role": "user", "content": parts}]}

    def _message(self) -> tuple[str, dict[str, Any]]:
        parts: list[dict[str, Any]] = [{"type": "text", "text": self._text()}]
        if self._random.random() < 0.5:
            data = base64.b64encode(self._picture()).decode()
            source = {"type": "base64", "media_type": "image/jpeg", "data": data}
            parts.insert(0, {"type": "image", "source": source})
        return "/v1/messages", self._fields() | {"messages": [{"role": "user", "content": parts}]}

    def _schema(self) -> tuple[str, dict[str, Any]]:
        names = [f"field_{self._number}", "other"]
        properties = {name: {"type": "integer", "minimum": 0, "maximum": 99} for name in names}
        schema = {"type": "object", "properties": properties, "required": names}
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        return self._chat(self._text(), response_format=form)

    def _video(self) -> tuple[str, dict[str, Any]]:
        data = _VIDEO + b"\0\0\0\x10free%8d" % (self._number % 10**8)
        url = "data:video/mp4;base64," + base64.b64encode(data).decode()
        part = {"type": "video_url", "video_url": {"url": url, "num_frames": 2}}
        return self._chat([part, {"type": "text", "text": self._text()}])

    def _count(self) -> tuple[str, dict[str, Any]]:
        content = [{"type": "input_image", "image_url": self._url()}]
        return "/v1/responses/input_tokens", {"input": [{"role": "user", "content": content}]}
