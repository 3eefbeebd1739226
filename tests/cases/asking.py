"""Sends a case to a server, and reads what came back and what reached the engine."""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx2
from internvl_server.core import GenerateRequest
from PIL import Image, ImageDraw

from tests.live_server import LiveServer

CASES = Path(__file__).parents[1] / "data" / "cases"
MODEL = "internvl-demo"
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
IMAGE_TOKEN = "<IMG_CONTEXT>"


@dataclass
class Reply:
    """An answer, streamed or whole, and the requests that the engine was given for it."""

    status: int
    headers: httpx2.Headers
    whole: dict[str, Any] | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    is_done: bool = True
    requests: list[GenerateRequest] = field(default_factory=list)

    @property
    def text(self) -> str:
        if self.whole is not None:
            return self.whole["choices"][0]["message"]["content"] or ""
        deltas = [choice["delta"] for event in self.events for choice in event["choices"]]
        return "".join(delta.get("content") or "" for delta in deltas)

    @property
    def refusal(self) -> str:
        if self.whole is not None:
            return self.whole["choices"][0]["message"]["refusal"] or ""
        deltas = [choice["delta"] for event in self.events for choice in event["choices"]]
        return "".join(delta.get("refusal") or "" for delta in deltas)

    @property
    def finish_reason(self) -> str:
        answers = [self.whole] if self.whole is not None else self.events
        reasons = [c["finish_reason"] for answer in answers for c in answer["choices"]]
        [reason] = [reason for reason in reasons if reason]
        return reason

    @property
    def error(self) -> dict[str, Any]:
        assert self.whole is not None
        return self.whole["error"]

    @property
    def ignored(self) -> list[str]:
        """The JSON paths in `x-ignored-fields`."""
        value = self.headers.get("x-ignored-fields", "")
        return [unquote(path) for path in value.split(", ") if path]

    @property
    def warnings(self) -> str:
        return unquote(self.headers.get("x-warnings", ""))

    @property
    def request(self) -> GenerateRequest:
        [request] = self.requests
        return request


class CaseServer:
    """A running server whose engine's requests are recorded.

    Args:
        server: It, running.
        loop: The stand-in for LMDeploy's native engine, on TurboMind.
    """

    def __init__(self, server: LiveServer, loop: Any = None) -> None:
        self.live, self.loop = server, loop
        self._requests: list[GenerateRequest] = []
        # Less than the server keeps idle connections, so that none is reused as it is closed.
        limits = httpx2.Limits(keepalive_expiry=2)
        self._client = httpx2.Client(base_url=server.url, timeout=120, limits=limits)
        generate = server.engine.generate

        def record(request: GenerateRequest) -> Any:
            self._requests.append(request)
            return generate(request)

        server.engine.generate = record

    def __enter__(self) -> "CaseServer":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def will_answer(self, text: str | None) -> None:
        """What the stand-in generates from now on; None is its usual text. Other engines compute."""
        if self.loop is None:
            return
        from tests.lmdeploy.native import Loop, Plan
        from tests.lmdeploy.requests import END

        ids = [] if text is None else [*self.tokenizer.encode(text).ids, END]
        self.loop.plan = (lambda call: Plan(ids)) if ids else Loop.plan

    @property
    def kind(self) -> str:
        return self.live.app.state.services.settings.engine.kind

    @cached_property
    def tokenizer(self) -> Any:
        """The checkpoint's own tokenizer, with its added tokens."""
        from tokenizers import Tokenizer

        path = Path(self.live.app.state.services.checkpoint.path)
        return Tokenizer.from_file(str(path / "tokenizer.json"))

    def ask(self, body: dict[str, Any], path: str = CHAT) -> Reply:
        """Any answer, whatever its status."""
        self._requests.clear()
        answer = self._client.post(path, json=body)
        reply = Reply(answer.status_code, answer.headers)
        if answer.headers["content-type"].startswith("text/event-stream"):
            frames = [x.removeprefix("data: ") for x in answer.text.split("\n\n") if "data: " in x]
            reply.is_done = frames[-1] == "[DONE]"
            reply.events = [json.loads(frame) for frame in frames if frame != "[DONE]"]
        else:
            reply.whole = answer.json()
        reply.requests = list(self._requests)
        return reply

    def answer(self, body: dict[str, Any], path: str = CHAT) -> Reply:
        """A 200 that reached the engine and ended as it should."""
        reply = self.ask(body, path)
        assert reply.status == 200, reply.whole
        assert reply.is_done
        assert all("error" not in event for event in reply.events), reply.events[-1]
        assert reply.requests
        return reply

    def refuse(self, body: dict[str, Any], path: str = CHAT) -> dict[str, Any]:
        """The error of a 400."""
        reply = self.ask(body, path)
        assert reply.status == 400, reply.whole or reply.text
        assert reply.requests == []
        return reply.error

    def prompt(self, request: GenerateRequest) -> str:
        """A prompt as text, special tokens by name, the tokens of each picture as one."""
        image_id = self.tokenizer.token_to_id(IMAGE_TOKEN)
        ids = request.prompt_token_ids
        kept = [x for x, before in zip(ids, (None, *ids)) if x != image_id or before != image_id]  # noqa: B905
        return self.tokenizer.decode(kept, skip_special_tokens=False)


def load(name: str) -> dict[str, Any]:
    """The body of a stored case, e.g. `requests/fields_nulls`."""
    return json.loads((CASES / f"{name}.json").read_text(encoding="utf-8"))


def stored(prefix: str) -> list[str]:
    """Names of the stored cases that begin with `prefix`."""
    paths = sorted(CASES.glob(f"{prefix}*.json"))
    return [path.relative_to(CASES).as_posix().removesuffix(".json") for path in paths]


def chat(content: Any = "hi", **fields: Any) -> dict[str, Any]:
    """A chat request of one user message with a short, deterministic answer."""
    return turns([{"role": "user", "content": content}], **fields)


def turns(messages: Sequence[Any], **fields: Any) -> dict[str, Any]:
    short = {"max_tokens": 4, "temperature": 0}
    return {"model": MODEL, "messages": list(messages)} | short | fields


def picture(number: int = 0, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """A small picture unlike those of other numbers."""
    image = Image.new("RGB", size, (40 + 29 * number % 200, 90, 200 - 17 * number % 150))
    ImageDraw.Draw(image).ellipse((10 + number, 8, 50 + number, 48), fill=(230, 30, 30))
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def part(url: str, **options: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **options}}


def image_part(number: int = 0, **options: Any) -> dict[str, Any]:
    return part(data_url(encoded(picture(number))), **options)


def text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}
