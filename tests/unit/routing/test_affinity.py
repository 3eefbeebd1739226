"""The key that keeps a conversation on one server."""

import json
from typing import Any

import pytest
from internvl_server.routing.affinity import HEADER, WINDOW_BYTES, AffinityMiddleware, affinity_key
from starlette.types import Message, Receive, Scope, Send


def key(messages: list[dict[str, Any]], **fields: Any) -> str:
    return affinity_key(json.dumps({"model": "m", "messages": messages, **fields}).encode())


def picture(data: str, text: str = "What is it?") -> dict[str, Any]:
    url = {"url": f"data:image/png;base64,{data}"}
    parts = [{"type": "text", "text": text}, {"type": "image_url", "image_url": url}]
    return {"role": "user", "content": parts}


SYSTEM = {"role": "system", "content": 'Answer "briefly".'}
USER = {"role": "user", "content": "Hello\nthere"}
LATER = [{"role": "assistant", "content": "Hi."}, {"role": "user", "content": "And then?"}]


@pytest.mark.parametrize(
    "first", [[USER], [SYSTEM, USER], [picture("A" * 99)], [SYSTEM, picture("A")]]
)
def test_later_turns_have_the_key_of_the_first(first: list[dict[str, Any]]) -> None:
    assert len(key(first)) == 32
    assert key(first) == key([*first, *LATER], temperature=0.5) == key([*first, *LATER, *LATER])


def test_a_picture_of_a_later_turn_does_not_move_the_conversation() -> None:
    later = [*LATER[:1], picture("A" * 99)]
    assert key([SYSTEM, USER]) == key([SYSTEM, USER, *later]) == key([SYSTEM, USER, *later, *LATER])
    greeting = {"role": "assistant", "content": "How can I help?"}
    assert key([greeting, USER]) == key([greeting, USER, *later])
    assert key([greeting, USER]) != key([greeting, picture("A" * 99)])
    quoted = {"role": "user", "content": 'What is "role": "assistant"?'}
    first = [quoted, picture("A" * 99)]  # both before the first answer
    assert key(first) == key([*first, *LATER]) != key([quoted])


def test_content_may_be_before_its_role() -> None:
    turned: list[list[dict[str, Any]]] = [
        [{"content": "Hello", "role": "user"}],
        [{"content": [{"text": "Hello", "type": "text"}], "role": "user"}],
        [{"content": "Be brief.", "role": "system"}, {"content": "Hello", "role": "user"}],
    ]
    assert len({key(first) for first in turned}) == 3
    for first in turned:
        later = [{"content": "Hi.", "role": "assistant"}, {"content": "Then?", "role": "user"}]
        assert key(first) == key([*first, *later])
    assert key(turned[0]) != key([{"content": "Hi", "role": "user"}])


def test_what_differs_has_another_key() -> None:
    keys = [
        key([USER]),
        key([SYSTEM, USER]),
        key([{**SYSTEM, "content": "other"}, USER]),
        key([{**USER, "content": "Goodbye"}]),
        key([picture("A" * 5000)]),
        key([picture("A" * 4000 + "B" * 1000)]),
        key([SYSTEM, picture("A" * 5000)]),
    ]
    assert len(set(keys)) == len(keys)


def test_the_same_image_has_the_same_key_whatever_is_asked() -> None:
    assert key([picture("A" * 5000)]) == key([picture("A" * 5000 + "B", text="How many?")])


def test_all_apis_have_a_key() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 50}
    source = {"type": "base64", "media_type": "image/png", "data": "A" * 50}
    for body in (
        {"prompt": "Once upon a time"},
        {"input": "Hello"},
        {"instructions": "Be kind.", "input": [{"role": "user", "content": [image]}]},
        {"system": "Be kind.", "messages": [{"role": "user", "content": [{"source": source}]}]},
    ):
        assert len(affinity_key(json.dumps(body).encode())) == 32, body
    assert affinity_key(b'{"prompt": "a"}') != affinity_key(b'{"prompt": "b"}')


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"model": "messages"}', b"\xff\x00", b'"\\"messages\\":']
)
def test_no_conversation_has_no_key(body: bytes) -> None:
    assert affinity_key(body) == ""


def test_only_the_beginning_counts() -> None:
    text = json.dumps({"messages": [picture("A" * WINDOW_BYTES)]}).encode()
    assert affinity_key(text) == affinity_key(text[:WINDOW_BYTES]) == affinity_key(text + b"rest")


async def pass_through(
    body: list[bytes], headers: list[tuple[bytes, bytes]]
) -> tuple[Scope, bytes]:
    """What arrives behind the middleware, of a body that is sent in pieces."""
    seen: dict[str, Any] = {"body": b""}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen["scope"] = scope
        while True:
            message = await receive()
            seen["body"] += message.get("body", b"")
            if not message.get("more_body"):
                break
        seen["after"] = await receive()

    messages: list[Message] = [
        {"type": "http.request", "body": piece, "more_body": index < len(body) - 1}
        for index, piece in enumerate(body)
    ]
    messages.append({"type": "http.disconnect"})
    rest = iter(messages)

    async def receive() -> Message:
        return next(rest)

    async def send(_: Message) -> None: ...

    scope = {"type": "http", "method": "POST", "headers": headers}
    await AffinityMiddleware(app)(scope, receive, send)
    assert seen["after"]["type"] == "http.disconnect"
    return seen["scope"], seen["body"]


async def test_the_middleware_adds_the_key_and_loses_nothing() -> None:
    body = json.dumps({"messages": [picture("A" * 3 * WINDOW_BYTES)]}).encode()
    pieces = [body[start : start + 10_000] for start in range(0, len(body), 10_000)]
    scope, passed = await pass_through(pieces, [])
    assert passed == body
    assert scope["headers"] == [(HEADER, affinity_key(body).encode())]
    given = [(HEADER, b"mine")]
    scope, passed = await pass_through(pieces, given)
    assert (scope["headers"], passed) == (given, body)
    scope, passed = await pass_through([b"{}"], [])
    assert (scope["headers"], passed) == ([], b"{}")
