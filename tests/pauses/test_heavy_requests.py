"""No request holds up the event loop: a running stream and `/health` go on while each kind is served."""

import base64
import io
import json
from itertools import repeat
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.pauses.conftest import CHAT, Watched, as_bytes, chat

MB = 1_000_000
COMPLETIONS, RESPONSES = "/v1/completions", "/v1/responses"
MESSAGES, TOKENIZE, DETOKENIZE = "/v1/messages", "/tokenize", "/detokenize"


def function(**fields: Any) -> list[Any]:
    return [{"type": "function", "function": {"name": "f"} | fields}]


def schema(**fields: Any) -> dict[str, Any]:
    inner = {"name": "x", "schema": {"type": "object"} | fields}
    return {"type": "json_schema", "json_schema": inner}


def call(arguments: Any, result: str = "x") -> list[Any]:
    made = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return [
        {"role": "user", "content": "x"},
        {"role": "assistant", "tool_calls": [made]},
        {"role": "tool", "tool_call_id": "a", "content": result},
    ]


def picture(width: int, height: int) -> dict[str, Any]:
    coarse = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{encoded}"}}


TEXTS = {
    "words": "the cat sat on a mat " * (MB // 21),
    "digits": "1234567890" * (MB // 10),
    "one letter": "a" * MB,
    "labels": "Image-1: " * (MB // 9),
    "marks": "<image>" * (MB // 7),
    "markers": "<ref>" * (MB // 5),
}


def text_fields(text: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """A request for every field that takes text of any length."""
    return {
        "message": (CHAT, chat(text)),
        "part": (CHAT, chat([{"type": "text", "text": text}])),
        "arguments": (CHAT, chat() | {"messages": call(json.dumps({"a": text}), text)}),
        "arguments as object": (CHAT, chat() | {"messages": call({"a": text})}),
        "tools": (CHAT, chat(tools=function(description=text, parameters={"title": text}))),
        "schema": (CHAT, chat(response_format=schema(description=text))),
        "regex": (CHAT, chat(structured_outputs={"regex": text})),
        "grammar": (CHAT, chat(structured_outputs={"grammar": text})),
        "choice": (CHAT, chat(structured_outputs={"choice": [text]})),
        "stop": (CHAT, chat(stop=text)),
        "unknown field": (CHAT, chat(other=text)),
        "model": (CHAT, chat(model=text)),
        "prompt": (COMPLETIONS, {"prompt": text, "max_tokens": 1}),
        "input": (RESPONSES, {"input": text, "instructions": text, "max_output_tokens": 16}),
        "messages": (MESSAGES, chat(text, system=text)),
        "tokenize": (TOKENIZE, {"prompt": text, "return_token_strs": True}),
        "tokenize messages": (TOKENIZE, {"messages": chat(text)["messages"]}),
    }


def chat_with(member: str, value: bytes) -> bytes:
    return b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "%s": %s}' % (
        member.encode(),
        value,
    )


BOMBS = {
    "lists": b"[" + b"[]," * 7_000_000 + b"1]",
    "objects": b"[" + b"{}," * 7_000_000 + b"1]",
    "nested": b"[" + (b"[" * 60 + b"]" * 60 + b",") * 150_000 + b"1]",
    "numbers": b"[" + b"1," * 10_000_000 + b"1]",
    "long numbers": b"[" + (b"1" * 4000 + b",") * 5000 + b"1]",
    "escapes": b'"' + b"\\u00e9" * 3_000_000 + b'"',
    "spread escapes": b'"' + b"\\u00e9aaaaaaaaaa" * 1_900_000 + b'"',
    "other alphabets": b'"' + "漢".encode() * 10_000_000 + b'"',
    "other alphabets as allowed": b'"' + "é".encode() * 6_000_000 + b'"',
    "as many as allowed": b"[" + b"[]," * 48_000 + b"1]",
    "members as allowed": b"{" + b",".join(b'"%d":1' % i for i in range(60_000)) + b"}",
}

OTHERS: dict[str, tuple[str, Any]] = {
    **{f"bomb: {name}": (CHAT, bomb) for name, bomb in BOMBS.items()},
    **{f"bomb in a field: {name}": (CHAT, chat_with("x", bomb)) for name, bomb in BOMBS.items()},
    **{f"bomb in tools: {name}": (CHAT, chat_with("tools", bomb)) for name, bomb in BOMBS.items()},
    "schema of many properties": (
        CHAT,
        chat(response_format=schema(properties={f"p{i}": {} for i in range(20_000)})),
    ),
    "many large tools": (
        CHAT,
        chat(
            tools=[*function(parameters={f"p{i}": {"title": "x" * 40} for i in range(150)})] * 100
        ),
    ),
    "many messages": (CHAT, chat() | {"messages": chat("word " * 25)["messages"] * 1000}),
    "many parts": (CHAT, chat([{"type": "text", "text": "w"}] * 500)),
    "many prompts": (COMPLETIONS, {"prompt": [[65] * 2000] * 64, "max_tokens": 1}),
    "token ids": (COMPLETIONS, {"prompt": [65] * 30_000, "max_tokens": 1}),
    "detokenize": (DETOKENIZE, {"tokens": [65] * 32_000}),
    "large picture": (CHAT, chat([picture(4000, 3000)])),
    "large pictures": (CHAT, chat([picture(4000, 3000)] * 8)),
}

CHUNKED = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
)
RAW = {
    "one-byte chunks": CHUNKED + b"1\r\n \r\n" * MB + b"0\r\n\r\n",
    "small chunks": CHUNKED + (b"40\r\n" + b" " * 64 + b"\r\n") * 200_000 + b"0\r\n\r\n",
    "many headers": b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"x: y\r\n" * 10_000 + b"\r\n",
    "large header": b"GET /health HTTP/1.1\r\nHost: x\r\nx: " + b"x" * MB + b"\r\n\r\n",
    "pipelined": b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 10_000,
}


@pytest.mark.parametrize("field", text_fields(""))
def test_megabytes_of_text_in_any_field(watched: Watched, field: str) -> None:
    for text in TEXTS.values():
        watched.assert_goes_on(repeat(as_bytes(*text_fields(text)[field])))


@pytest.mark.parametrize("name", OTHERS)
def test_heavy_bodies(watched: Watched, name: str) -> None:
    watched.assert_goes_on(repeat(as_bytes(*OTHERS[name])))


@pytest.mark.parametrize("name", RAW)
def test_heavy_framing(watched: Watched, name: str) -> None:
    watched.assert_goes_on(repeat(RAW[name]))
