"""Works through a batch: several requests at a time, again after a refusal that passes, until a signal."""

import asyncio
import logging
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass

from internvl_server.batch.client import BatchClient, Reply
from internvl_server.batch.journal import Journal
from internvl_server.batch.lines import BatchLine, answer_line, failure_line
from internvl_server.errors import InvalidRequestError

__all__ = ["MAX_RETRIES", "BatchRunner", "RetryRules"]

_log = logging.getLogger(__name__)

MAX_RETRIES = 10

_PASSING = frozenset({429, 503})
_FIRST_FAILURE = 400


@dataclass(frozen=True, slots=True)
class RetryRules:
    """How often a request that was not executed is sent again, and how long to wait before.

    The n-th wait is `first_wait_s` times 2 to the n, at most `max_wait_s`, at least what the server asked
    for; and up to half as much again, so that requests refused together do not come back together.
    """

    max_retries: int = MAX_RETRIES
    first_wait_s: float = 0.5
    max_wait_s: float = 30.0

    def wait_s(self, attempt: int, asked_s: float) -> float:
        """Seconds before the attempt after this one, which is counted from 0."""
        wait_s: float = max(min(self.first_wait_s * 2**attempt, self.max_wait_s), asked_s)
        return wait_s * random.uniform(1, 1.5)  # noqa: S311 - no secret


class BatchRunner:
    """Sends lines and writes what comes back, in the order it comes.

    Args:
        client: Asks the server.
        journal: Takes note of the lines.
        concurrency: Most requests at the same time.
        rules: Of sending again.
    """

    def __init__(
        self, client: BatchClient, journal: Journal, *, concurrency: int, rules: RetryRules
    ) -> None:
        self._client = client
        self._journal = journal
        self._slots = asyncio.Semaphore(concurrency)
        self._rules = rules
        self.stopped_by: signal.Signals | None = None

    async def run(self, lines: Iterator[BatchLine]) -> None:
        """Until all lines are done or a signal came.

        The first SIGINT or SIGTERM lets the requests that run finish, a second one aborts them: those are
        not written and will be done by the next run.
        """
        loop = asyncio.get_running_loop()
        work = asyncio.ensure_future(self._work(lines))
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, number, work)
        try:
            await work
        except asyncio.CancelledError:
            if self.stopped_by is None:
                raise
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _stop(self, number: signal.Signals, work: "asyncio.Future[None]") -> None:
        if self.stopped_by is not None:
            work.cancel()
            return
        self.stopped_by = number
        _log.warning("stopping: requests that run are finished; a second signal aborts them")

    async def _work(self, lines: Iterator[BatchLine]) -> None:
        async with asyncio.TaskGroup() as group:
            # In a thread: a line can be as large as the pictures in it.
            while line := await asyncio.to_thread(next, lines, None):
                if self._journal.is_settled(line.custom_id):
                    continue
                await self._slots.acquire()
                if self.stopped_by is not None:
                    return
                group.create_task(self._one(line))

    async def _one(self, line: BatchLine) -> None:
        try:
            text, is_success = await self._result(line)
        finally:
            self._slots.release()
        self._journal.note(line.custom_id, text, is_success=is_success)

    async def _result(self, line: BatchLine) -> tuple[str, bool]:
        try:
            body = await asyncio.to_thread(line.body)
        except InvalidRequestError as error:
            return failure_line(line.custom_id, error), False
        reply = await self._ask(line, body)
        if isinstance(reply, str):
            return failure_line(line.custom_id, reply), False
        text = answer_line(line.custom_id, reply.status, reply.request_id, reply.body)
        return text, reply.status < _FIRST_FAILURE

    async def _ask(self, line: BatchLine, body: bytes) -> Reply | str:
        """The answer; or why there is none, when the tries are used up or the batch is being stopped."""
        for attempt in range(self._rules.max_retries + 1):
            asked_s = 0.0
            try:
                reply = await self._client.ask(line.url, body)
                if reply.status not in _PASSING:
                    return reply
                failure, asked_s = f"refused with status {reply.status}", reply.retry_after_s
            except ConnectionError as err:
                failure = str(err)
            if self.stopped_by is not None or attempt == self._rules.max_retries:
                break
            await asyncio.sleep(self._rules.wait_s(attempt, asked_s))
        return f"{failure}, {attempt + 1} times"
