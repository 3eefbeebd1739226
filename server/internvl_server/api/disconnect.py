"""The connection of a request, used without ASGI: writes to it, and ends work whose client has left."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol, TypeVar

from fastapi import Request
from starlette.types import Receive, Scope

__all__ = [
    "DIRECT",
    "ClientGoneError",
    "Direct",
    "direct_of",
    "run_until_disconnect",
    "until_gone",
    "watch",
]

DIRECT = "internvl_server.direct"
"""Key of the scope: a weak reference to the request's `Direct`, which its connection holds."""

T = TypeVar("T")


class Direct(Protocol):
    """The connection of one request, used without ASGI."""

    def write(self, body: bytes) -> bool:
        """Write a piece of the body at once. Returns whether that was possible; if not, nothing was done."""

    def abort(self) -> None:
        """Drop the connection, and what waits to be sent on it."""

    def watch(self, on_gone: Callable[[], None], *, has_body: bool) -> Callable[[], None]:
        """Have a function called once the client leaves, later than now; returns what ends the watch.

        There is one watch at a time. `has_body` says that the body is yet to be read, and must stay unread.
        """


def direct_of(scope: Scope) -> Direct | None:
    """The connection of a request; None under another server than this one's, and after the answer."""
    found: Direct | None = scope[DIRECT]() if DIRECT in scope else None
    return found


class ClientGoneError(Exception):
    """The client left before it was answered."""


async def run_until_disconnect(
    request: Request, work: Coroutine[Any, Any, T], *, has_body: bool = False
) -> T:
    """Await `work`, and cancel it when the client leaves.

    It runs in the request's own task, as it does for `asyncio.timeout`.

    Args:
        request: The HTTP request.
        work: What is awaited.
        has_body: Whether the body is yet to be read, by somebody else and later.

    Raises:
        ClientGoneError: The client left first.
    """
    task = asyncio.current_task()
    assert task is not None
    has_left = False

    def leave() -> None:
        nonlocal has_left
        has_left = True
        task.cancel()

    stop = watch(request.scope, request.receive, leave, has_body=has_body)
    try:
        return await work
    except asyncio.CancelledError:
        if has_left and not task.uncancel():  # otherwise the server ends as well
            raise ClientGoneError from None
        raise
    finally:
        stop()


def watch(
    scope: Scope, receive: Receive, on_gone: Callable[[], None], *, has_body: bool = False
) -> Callable[[], None]:
    """Have a function called when the client leaves, never before this one returns.

    The connection calls it, without a task. Under another server than this one's, a task waits for the event,
    which cannot be received before the body.

    Args:
        scope: The request's.
        receive: Takes the events of the request.
        on_gone: Called at most once.
        has_body: Whether the body is yet to be read.

    Returns:
        What ends the watch.
    """
    if (direct := direct_of(scope)) is not None:
        return direct.watch(on_gone, has_body=has_body)
    if has_body:
        return _do_nothing
    watcher = asyncio.create_task(_watch(receive, on_gone))
    return partial(_stop, watcher)


async def until_gone(receive: Receive) -> None:
    """Wait for the event that the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _watch(receive: Receive, on_gone: Callable[[], None]) -> None:
    await until_gone(receive)
    on_gone()


def _do_nothing() -> None:
    pass


def _stop(watcher: "asyncio.Task[None]") -> None:
    watcher.cancel()
