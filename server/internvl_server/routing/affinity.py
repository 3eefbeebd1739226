"""The key by which balancers keep a conversation on one server, from the beginning of a request's body.

It is computed from the raw text of the JSON, without parsing it, so that a balancer can do so while the rest
of the body is still on its way. `configs/affinity.lua` computes the same key for HAProxy.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["HEADER", "WINDOW_BYTES", "AffinityMiddleware", "affinity_key"]

HEADER = b"x-affinity-key"
"""A client may name the key itself; requests with the same one go to the same server."""

WINDOW_BYTES = 65_536
"""The part of a body that is read for the key."""

# A quote after a backslash is part of a text.
_BEGIN = re.compile(rb'(?<!\\)"(?:messages|input|system|instructions|prompt)"\s*:')
_USER = re.compile(rb'(?<!\\)"user"')
_ASSISTANT = re.compile(rb'(?<!\\)"assistant"')
_MEDIA = re.compile(rb'(?<!\\)"(?:url|image_url|video_url|data)"\s*:\s*"([^"]{16,4096})')
# Up to the first character that is escaped.
_TEXT = re.compile(rb'(?<!\\)"(?:content|text|input|prompt)"\s*:\s*"([^"\\]{1,4096})')


def affinity_key(body: bytes) -> str:
    """The key of a request, as 32 hexadecimal digits; empty if the body has no conversation.

    It is a hash of two parts: what is before the first message of a user, with the system's text; and the
    first 4,096 bytes of the first image or video of the first turn, or without one, of its first text, up to
    its first escaped character. What is beyond the window does not count, nor what is after the answer of the
    assistant that ends the first turn, so that later turns have the same key.

    Args:
        body: Its beginning, at least `WINDOW_BYTES` of it if it has as many.
    """
    window = body[:WINDOW_BYTES]
    begin = _BEGIN.search(window)
    if begin is None:
        return ""
    user = _USER.search(window, begin.end())
    first = begin.start()
    if user is not None:
        first = _beginning(window, begin.end(), user.start())
        answer = _ASSISTANT.search(window, user.end())
        window = window[: answer.start()] if answer else window
    found = _MEDIA.search(window, begin.end()) or _TEXT.search(window, first)
    parts = window[begin.start() : first] + b"\0" + (found[1] if found else b"")
    return hashlib.sha256(parts).hexdigest()[:32]


def _beginning(window: bytes, start: int, user: int) -> int:
    """Where the object begins that says it is of a user. Its `content` may be before its `role`."""
    brace = window.rfind(b"{", start, user)
    return user if brace < 0 else brace


class AffinityMiddleware:
    """ASGI middleware for a balancer: gives each POST request without the header its key as one.

    Args:
        app: The balancer.
        header: Name of the header.
    """

    def __init__(self, app: ASGIApp, header: bytes = HEADER) -> None:
        self._app = app
        self._header = header

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] == "http" and scope["method"] == "POST":
            names = {name.lower() for name, _ in scope["headers"]}
            if self._header not in names:
                read, key = await _read_window(receive)
                receive = _replay(read, receive)
                if key:
                    headers = [*scope["headers"], (self._header, key.encode())]
                    scope = {**scope, "headers": headers}
        await self._app(scope, receive, send)


async def _read_window(receive: Receive) -> tuple[list[Message], str]:
    """Read the messages with the beginning of a body, and its key."""
    read: list[Message] = []
    beginning = b""
    while len(beginning) < WINDOW_BYTES:
        message = await receive()
        read.append(message)
        beginning += message.get("body", b"")
        if not message.get("more_body", False):
            break
    return read, affinity_key(beginning)


def _replay(read: list[Message], receive: Receive) -> Callable[[], Awaitable[Message]]:
    """Receive what was read again, and then the rest."""
    rest = iter(read)

    async def replay() -> Message:
        message = next(rest, None)
        return await receive() if message is None else message

    return replay
