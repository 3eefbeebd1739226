"""Sends the requests of a batch, several at a time, and repeats those that the server was too busy for."""

import asyncio
import logging
import random
import signal
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import httpx2

from internvl_server.batch.lines import BatchLine
from internvl_server.batch.results import answer, not_executed, refusal
from internvl_server.errors import InvalidRequestError

__all__ = ["BatchRunner", "backoff_s"]

_log = logging.getLogger(__name__)

FIRST_WAIT_S = 0.5
MAX_WAIT_S = 30.0

_RETRIED = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def backoff_s(attempt: int, retry_after_s: int) -> float:
    """Seconds to wait after an attempt, counted from 0.

    Grows exponentially to `MAX_WAIT_S`, is at least what the server asked for, and has up to half of that
    added at random, so that requests that were refused together spread out.
    """
    wait_s: float = max(min(FIRST_WAIT_S * 2**attempt, MAX_WAIT_S), retry_after_s)
    return wait_s * random.uniform(1, 1.5)  # noqa: S311 - not a secret


class BatchRunner:
    """Runs a batch until its end or a signal; `stopped_by` is that signal.

    Args:
        client: Sends requests to the server.
        write: Receives each result, in the order in which requests finish.
        concurrency: Most requests at the same time.
        max_retries: How often a request is repeated while the server is too busy or cannot be reached.
    """

    def __init__(
        self,
        client: httpx2.AsyncClient,
        write: Callable[[dict[str, Any]], None],
        *,
        concurrency: int,
        max_retries: int,
    ) -> None:
        self._client = client
        self._write = write
        self._slots = asyncio.Semaphore(concurrency)
        self._max_retries = max_retries
        self.stopped_by: signal.Signals | None = None

    async def run(self, lines: Iterator[BatchLine]) -> None:
        """Send all lines.

        After the first SIGINT or SIGTERM no request is started and those in flight finish. The second
        aborts them: they have no result and are sent again by the next run.

        Raises:
            BatchError, OSError: A line cannot be read or a result cannot be written.
        """
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(self._run(lines))
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._stop, number, task)
        try:
            await task
        except asyncio.CancelledError:
            if self.stopped_by is None:
                raise
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    def _stop(self, number: signal.Signals, task: "asyncio.Future[None]") -> None:
        if self.stopped_by is not None:
            task.cancel()
            return
        self.stopped_by = number
        _log.warning("stopping: requests in flight are finished; a second signal aborts them")

    async def _run(self, lines: Iterator[BatchLine]) -> None:
        async with asyncio.TaskGroup() as group:
            # In a thread, because a line can be as large as the images in it.
            while line := await asyncio.to_thread(next, lines, None):
                await self._slots.acquire()
                if self.stopped_by is not None:
                    return
                group.create_task(self._run_one(line))

    async def _run_one(self, line: BatchLine) -> None:
        try:
            result = await self._result(line)
        finally:
            self._slots.release()
        self._write(result)

    async def _result(self, line: BatchLine) -> dict[str, Any]:
        try:
            body = await asyncio.to_thread(line.body)
            return answer(line.custom_id, await self._send(line.url, body))
        except InvalidRequestError as error:
            return refusal(line.custom_id, error)
        except ConnectionError as error:
            return not_executed(line.custom_id, str(error))

    async def _send(self, url: str, body: bytes) -> httpx2.Response:
        """Send a request until the server executes it.

        Raises:
            ConnectionError: All attempts failed, or one failed after a signal.
        """
        attempt = 0
        while True:
            retry_after_s = 0
            try:
                response = await self._client.post(url, content=body)
                if response.status_code not in _RETRIED:
                    return response
                failure = f"refused with status {response.status_code}"
                retry_after = response.headers.get("retry-after", "")
                retry_after_s = int(retry_after) if retry_after.isdecimal() else 0
            except httpx2.HTTPError as err:
                failure = f"no answer ({type(err).__name__})"
            if self.stopped_by is not None or attempt == self._max_retries:
                raise ConnectionError(f"{failure}, {attempt + 1} times")
            await asyncio.sleep(backoff_s(attempt, retry_after_s))
            attempt += 1
