"""A uvicorn server that stops in steps, so that no request is lost."""

import asyncio
import logging
import math
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from types import FrameType

import uvicorn

from internvl_server.api.admission import GateState
from internvl_server.api.services import Services
from internvl_server.serve.connection import Connection
from internvl_server.serve.memory import Trim

__all__ = ["DrainingServer"]

_log = logging.getLogger(__name__)

_POLL_S = 0.05
# Supervisors signal the process and its group: what comes so soon after the first is the same signal.
_SAME_SIGNAL_S = 0.5
# A connection that was accepted before the socket closed has so long for its first request.
_LAST_CALL_S = 1.0
# Requests that are ended have so long to write their last event; connections are dropped then.
_LAST_EVENT_S = 2.5
# After a second signal the process is gone after this time, whatever happens.
_FORCED_EXIT_S = 4.5


class DrainingServer(uvicorn.Server):
    """Finishes running requests before it stops.

    On SIGTERM `/ready` answers 503 at once, and answers ask clients to close their connections. The socket
    closes after `pre_drain_s`, or at once if the engine was never ready, and all requests of connections it
    had accepted are served. They may take `drain_s`; those that run then are ended with
    `server_shutting_down`. SIGINT skips the first wait, and a second signal skips all. The exit code is 0,
    whereas uvicorn's own handler would raise the signal again at the end. SIGHUP reads the keys file again.
    """

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._services = services
        self._settings = services.settings.server
        self._signalled_at = self._close_at = self._end_at = math.inf
        self._memory = Trim(services.media.release)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by uvicorn on SIGTERM and SIGINT."""
        del frame
        now = time.monotonic()
        if self._signalled_at == math.inf:
            self._leave(now, has_time=sig == signal.SIGTERM)
        elif now - self._signalled_at > _SAME_SIGNAL_S:
            self._end_at = now
            self.should_exit = True
            # The default action of SIGALRM ends a process that something, such as its engine, keeps alive.
            signal.setitimer(signal.ITIMER_REAL, _FORCED_EXIT_S)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn before the main loop."""
        await super().startup(sockets)
        if self._settings.keys_file is not None:  # otherwise SIGHUP ends the process, as usual
            loop = asyncio.get_running_loop()
            reload = self._services.keys.reload
            loop.add_signal_handler(signal.SIGHUP, loop.run_in_executor, None, reload)

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second. Returns whether to stop."""
        if time.monotonic() >= self._close_at:
            self.should_exit = True
        num_requests = self.server_state.total_requests
        self._memory.tick(num_requests, self._services.gate.num_in_flight)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the socket, and wait for the requests; called by uvicorn."""
        gate = self._services.gate
        _log.info("stopping: %d requests in flight", gate.num_in_flight)
        self._end_at = min(self._end_at, time.monotonic() + self._settings.drain_s)
        await self._close_socket(sockets or [])
        ending = asyncio.create_task(self._end_late())
        try:
            await super().shutdown()
        finally:
            ending.cancel()

    def _leave(self, now: float, *, has_time: bool) -> None:
        self._signalled_at = self._close_at = now
        if has_time and self._services.engine.health().is_ready:
            self._close_at += self._settings.pre_drain_s
        self._services.gate.state = GateState.UNREADY
        self.config.encoded_headers.append((b"connection", b"close"))
        self.server_state.default_headers = [
            *self.server_state.default_headers,
            (b"connection", b"close"),
        ]

    async def _close_socket(self, sockets: Sequence[socket.socket]) -> None:
        """Close it without losing a connection, and wait for the first requests of those it has accepted.

        The system refuses connections that wait to be accepted when a socket closes: with a reset, after
        their clients may have sent requests, which nobody could safely repeat.
        """
        waiting = [accepted for listener in sockets for accepted in _accept_all(listener)]
        for server in self.servers:
            server.close()
        for listener in sockets:
            listener.close()
        loop = asyncio.get_running_loop()
        for accepted in waiting:
            await loop.connect_accepted_socket(self._connection, accepted)
        until = time.monotonic() + _LAST_CALL_S
        await _wait_while(
            lambda: (
                time.monotonic() < min(until, self._end_at)
                and any(map(_is_new, self.server_state.connections))
            )
        )

    def _connection(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    async def _end_late(self) -> None:
        """End the requests that outlive `drain_s`, or all at a second signal."""
        await _wait_while(lambda: time.monotonic() < self._end_at)
        self._services.gate.state = GateState.DRAINING
        tasks = tuple(self.server_state.tasks)
        _log.warning("ending %d requests", len(tasks))
        for task in tasks:
            task.cancel()
        await asyncio.sleep(_LAST_EVENT_S)
        for connection in tuple(self.server_state.connections):
            connection.transport.abort()


async def _wait_while(condition: Callable[[], bool]) -> None:
    while condition():  # noqa: ASYNC110  (a signal handler may set no event)
        await asyncio.sleep(_POLL_S)


def _accept_all(listener: socket.socket) -> Iterator[socket.socket]:
    """The connections that wait to be accepted."""
    with suppress(OSError):  # BlockingIOError, when there are no more
        while True:
            yield listener.accept()[0]


def _is_new(connection: object) -> bool:
    """Whether a connection has not had a request yet."""
    return isinstance(connection, Connection) and connection.cycle is None
