"""The body of one response, written as plain calls; a task is made only when the client is slower."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any, TypeAlias

from starlette.types import Scope, Send

from internvl_server.api.disconnect import direct_of

__all__ = ["Channel", "ClientStalledError"]

_Steps: TypeAlias = Generator[Any, None, None]


class ClientStalledError(Exception):
    """The client has not read for too long."""


class Channel:
    """Writes where it is called, and nearly always that is all.

    The last piece, and all pieces under another server than this one's, go through ASGI's `send`, which is
    begun without a task. A send that has to wait shows that the client is slower than the answer. A task
    finishes it then, and what is written meanwhile is kept and sent in one piece.

    Args:
        scope: The request's.
        send: Takes the messages of the body.
        timeout_s: How long one send may take.
        on_ready: Called when the client has caught up.
        on_end: Called once, when the last message has been sent, or with the error that prevented it.
    """

    __slots__ = (
        "_direct", "_has_last", "_kept", "_on_end", "_on_ready", "_rest", "_send", "_timeout_s", "is_over",
    )  # fmt: skip

    def __init__(
        self,
        scope: Scope,
        send: Send,
        *,
        timeout_s: float,
        on_ready: Callable[[], None],
        on_end: Callable[[Exception | None], None],
    ) -> None:
        self._direct = direct_of(scope)
        self._send = send
        self._timeout_s = timeout_s
        self._on_ready, self._on_end = on_ready, on_end
        self._rest: asyncio.Task[None] | None = None
        self._kept: list[bytes] = []
        self._has_last = False
        self.is_over = False

    @property
    def is_behind(self) -> bool:
        """Whether the client must catch up before more is sent."""
        return self._rest is not None

    def write(self, body: bytes, *, is_last: bool = False) -> bool:
        """Send a piece of the body, unless the last has been sent. Never raises.

        Returns:
            Whether more can be sent now.
        """
        if self.is_over or self._has_last:
            return True
        self._has_last = is_last
        if self._rest is not None:
            self._kept.append(body)
            return False
        if not is_last and self._direct is not None and self._direct.write(body):
            return True
        self._begin_sending(body, is_last=is_last)
        return self._rest is None

    def _begin_sending(self, body: bytes, *, is_last: bool) -> None:
        steps = _steps(
            self._send({"type": "http.response.body", "body": body, "more_body": not is_last})
        )
        try:
            waits_for = next(steps)
        except StopIteration:
            if is_last:
                self._end(None)
        except Exception as error:  # noqa: BLE001  (handed over)
            self._end(error)
        else:
            self._rest = asyncio.create_task(self._finish(_Rest(steps, waits_for)))

    def abort(self) -> bool:
        """Drop the connection. Returns whether this server can."""
        if self._direct is not None:
            self._direct.abort()
        return self._direct is not None

    def close(self) -> None:
        """Send nothing more."""
        self.is_over = True
        if self._rest is not None:
            self._rest.cancel()

    async def _finish(self, rest: "_Rest") -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await rest
        except TimeoutError:
            self._end(ClientStalledError())
            return
        except Exception as error:  # noqa: BLE001  (as above)
            self._end(error)
            return
        self._rest = None
        if self._kept:
            body = b"".join(self._kept)
            self._kept.clear()
            self._begin_sending(body, is_last=self._has_last)
        elif self._has_last:
            self._end(None)
        if self._rest is None and not self.is_over:
            self._on_ready()

    def _end(self, error: Exception | None) -> None:
        self.is_over = True
        self._on_end(error)


def _steps(sending: Awaitable[None]) -> _Steps:
    yield from sending.__await__()


class _Rest:
    """What is left of steps that were begun outside of a task, and wait for something."""

    def __init__(self, steps: _Steps, waits_for: object) -> None:
        self._steps, self._waits_for = steps, waits_for

    def __await__(self) -> Generator[Any, None, None]:
        waits_for = self._waits_for
        while True:
            try:
                yield waits_for
            except BaseException as error:  # noqa: BLE001  (raised inside, a cancellation too)
                go_on = partial(self._steps.throw, error)
            else:
                go_on = partial(next, self._steps)
            try:
                waits_for = go_on()
            except StopIteration:
                return
