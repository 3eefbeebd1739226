"""Sends the requests of a batch, several at a time, and repeats those that the server was too busy for."""

import asyncio
import logging
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import httpx2

from internvl_server.api.errors import dialect_of_path, envelope
from internvl_server.batch.files import answer, not_executed, parse_request
from internvl_server.errors import InvalidRequestError, StartupError

__all__ = ["BatchRunner", "backoff_s"]

_log = logging.getLogger(__name__)

FIRST_WAIT_S = 0.5
MAX_WAIT_S = 30.0
_MAX_DOUBLINGS = 32

_RETRIED = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def backoff_s(attempt: int, retry_after_s: int) -> float:
    """Seconds to wait after an attempt, counted from 0.

    Grows exponentially to `MAX_WAIT_S`, is at least what the server asked for, and has up to half of that
    added at random, so that requests that were refused together spread out.
    """
    doublings = min(attempt, _MAX_DOUBLINGS)  # a float has no room for many more
    wait_s: float = max(min(FIRST_WAIT_S * 2**doublings, MAX_WAIT_S), retry_after_s)
    return wait_s * random.uniform(1, 1.5)  # noqa: S311 - not a secret


@dataclass
class BatchRunner:
    """Runs a batch, once, until its end or a signal.

    `write` receives each result, in the order in which requests finish. A request is repeated up to
    `max_retries` times while the server is too busy or cannot be reached.
    """

    client: httpx2.AsyncClient
    write: Callable[[dict[str, Any]], None]
    max_retries: int
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _stopped_by: signal.Signals | None = field(default=None, init=False)
    _is_aborted: bool = field(default=False, init=False)

    async def run(self, lines: Iterator[dict[str, Any]], concurrency: int) -> signal.Signals | None:
        """Send the requests of all lines; returns the signal that stopped the run, if any.

        After the first SIGINT or SIGTERM no request is started and those in flight finish. The second
        aborts them: they have no result and are sent again by the next run.

        Raises:
            BatchError, OSError: A line cannot be read or a result cannot be written.
            StartupError: The server refuses the key. The requests in flight have no result.
        """
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._run(lines, concurrency))
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._stop, number, task)
        try:
            await task
        except asyncio.CancelledError:
            if self._stopped_by is None:
                raise
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
        return self._stopped_by

    def _stop(self, number: signal.Signals, task: "asyncio.Task[None]") -> None:
        if self._stopped_by is not None:
            self._is_aborted = True
            task.cancel()
            return
        self._stopped_by = number
        _log.warning("stopping: requests in flight are finished; a second signal aborts them")

    async def _run(self, lines: Iterator[dict[str, Any]], concurrency: int) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(self._work(lines))

    async def _work(self, lines: Iterator[dict[str, Any]]) -> None:
        while True:
            async with self._reading:
                # In a thread, because a line can be as large as the images in it.
                line = await asyncio.to_thread(next, lines, None)
            if line is None or self._stopped_by is not None:
                return
            result = await self._result(line)
            if (
                self._is_aborted
            ):  # an app in this process answers 503 to requests that are cancelled
                return
            self.write(result)

    async def _result(self, line: dict[str, Any]) -> dict[str, Any]:
        custom_id = line["custom_id"]
        try:
            url, body = await asyncio.to_thread(parse_request, line)
            return answer(custom_id, await self._send(url, body))
        except InvalidRequestError as error:  # in the form of the server's own refusals
            content = envelope(error, dialect_of_path(str(line.get("url"))))
            refusal = httpx2.Response(HTTPStatus.BAD_REQUEST, json=content)
            return answer(custom_id, refusal)
        except ConnectionError as error:
            return not_executed(custom_id, str(error))

    async def _send(self, url: str, body: bytes) -> httpx2.Response:
        """Send a request until the server executes it.

        Raises:
            ConnectionError: All attempts failed, or one failed after a signal.
            StartupError: The server refuses the key, of this request and so of all.
        """
        attempt = 0
        while True:
            retry_after_s = 0
            try:
                response = await self.client.post(url, content=body)
                if response.status_code == HTTPStatus.UNAUTHORIZED:
                    raise StartupError(
                        "The server asks for a key that it knows (401). Give one with --api-key; what is "
                        "left of the file is sent then."
                    )
                if response.status_code not in _RETRIED:
                    return response
                failure = f"refused with status {response.status_code}"
                retry_after = response.headers.get("retry-after", "")
                retry_after_s = int(retry_after) if retry_after.isdecimal() else 0
            except httpx2.HTTPError as err:
                failure = f"no answer ({type(err).__name__})"
            if self._stopped_by is not None or attempt == self.max_retries:
                raise ConnectionError(f"{failure}, {attempt + 1} times")
            await asyncio.sleep(backoff_s(attempt, retry_after_s))
            attempt += 1
