"""An engine without a model, for tests and client development.

It is deterministic, with probability 1 for every token: temperature, filters and penalties change nothing.
A `logit_bias` of -100 excludes a token. Without a constraint it answers with the text of the prompt
(`echoing.py`), under one with a short text that is allowed (`constrained.py`). Tools that need not be called
are no constraint; a call that the prompt spells out is echoed as any other text.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from internvl_server.core import Constraint, GenerateRequest, SamplingParams, ToolCalls
from internvl_server.engine.base import Capability, EngineHealth, EngineInfo
from internvl_server.engine.checks import RequestLimits, check_request
from internvl_server.engine.echo import CAPABILITIES
from internvl_server.engine.echo.echoing import deltas_of, echoed
from internvl_server.engine.health import health_of
from internvl_server.engine.stream import Abort, Stream
from internvl_server.errors import EngineError, EngineUnavailableError, UnsupportedParameterError
from internvl_server.settings import EchoSettings

if TYPE_CHECKING:
    from internvl_server.engine.echo.constrained import ConstrainedAnswers

__all__ = ["EchoEngine"]

# OpenAI's: a token with this bias is never chosen.
_BANNING_BIAS = -100.0


class EchoEngine:
    """Implements `internvl_server.engine.base.Engine` with the delays and failures its settings ask for.

    Requests beyond `max_num_seqs` wait in order. Each request that was entered counts in `num_started` and,
    at its end, in one of `num_finished`, `num_failed` and `num_aborted`: left before its last token was made.

    Args:
        settings: Delays and failures.
        max_num_seqs: Most requests answered at the same time.
        max_model_len: Most tokens of a request, prompt and answer together.
        skip_token_ids: Ids that are not text and are not echoed.
        constrained: Answers to constraints; None where llguidance is not installed or the vocabulary is not
            byte-level.
    """

    def __init__(
        self,
        settings: EchoSettings,
        *,
        max_num_seqs: int,
        max_model_len: int,
        skip_token_ids: frozenset[int] = frozenset(),
        constrained: "ConstrainedAnswers | None" = None,
    ) -> None:
        self.num_started = self.num_finished = self.num_failed = self.num_aborted = 0
        self._tasks: set[asyncio.Task[None]] = set()  # of requests that have not ended
        self._running: set[asyncio.Task[None]] = set()  # those that hold a slot
        self._hung_since: float | None = None
        self._settings = settings
        self._skip_token_ids = skip_token_ids
        self._slots = asyncio.Semaphore(max_num_seqs)
        self._closed = asyncio.Event()
        self._state = "not started"
        self._constrained = constrained
        capabilities = CAPABILITIES - (set() if constrained else {Capability.GUIDED_DECODING})
        self.info = EngineInfo("echo", max_model_len, max_num_seqs, capabilities)

    @property
    def num_running(self) -> int:
        """Requests that hold a slot."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests that were entered, have not ended and hold no slot."""
        return len(self._tasks) - len(self._running)

    async def start(self) -> None:
        """Index the vocabulary for constraints; nothing else is loaded."""
        if self._constrained is not None:
            await self._constrained.start()
        self._state = "running"

    async def close(self) -> None:
        """Fail running requests and refuse new ones."""
        self._state = "closed"
        self._closed.set()
        if self._constrained is not None:
            await self._constrained.close()

    def health(self) -> EngineHealth:
        """Ready between `start` and `close`, unless a request hangs for too long."""
        return health_of(
            self._state,
            num_running=self.num_running,
            num_waiting=self.num_waiting,
            last_progress=self._hung_since,
        )

    def generate(self, request: GenerateRequest) -> Stream:
        """Queue a request; see `Engine.generate`."""
        return Stream(partial(self._accept, request))

    async def _accept(self, request: GenerateRequest, stream: Stream) -> Abort:
        self._check(request)
        token_ids = await self._answer(request)
        self._check(request)
        self.num_started += 1
        task = asyncio.create_task(self._run(token_ids, request, stream))
        self._tasks.add(task)
        return partial(self._abort, task)

    def _abort(self, task: "asyncio.Task[None]") -> None:
        if task in self._tasks:
            self.num_aborted += 1
            self._forget(task)
            task.cancel()

    def _forget(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._running.discard(task)
        if not self._tasks:
            self._hung_since = None

    def _check_running(self) -> None:
        if self._state != "running":
            raise EngineUnavailableError(f"The engine is {self._state}; try again later.")

    def _check(self, request: GenerateRequest) -> None:
        self._check_running()
        check_request(request, RequestLimits(self.info.max_model_len))

    async def compile(self, constraint: Constraint) -> tuple[str, ...]:
        """Compile a constraint, unless it is only a hint; see `Engine.compile`."""
        self._check_running()
        if isinstance(constraint, ToolCalls) and constraint.is_hint:
            return ()
        return await self._formats(constraint).compile(constraint)

    async def _answer(self, request: GenerateRequest) -> Iterator[int]:
        """The tokens of the answer, without a limit on their number."""
        biases = request.sampling.logit_bias
        banned = frozenset(token_id for token_id, bias in biases if bias <= _BANNING_BIAS)
        constraint = _binding_constraint(request.sampling)
        if constraint is None:
            skipped = self._skip_token_ids | request.stop_token_ids | banned
            return echoed(request, skipped, sorted(request.stop_token_ids - banned))
        return await self._formats(constraint).answer(constraint, request, banned)

    def _formats(self, constraint: Constraint) -> "ConstrainedAnswers":
        if self._constrained is None:
            raise UnsupportedParameterError(
                f"The echo engine supports '{constraint.param}' only with llguidance installed "
                "(internvl-server[guided]) and a byte-level tokenizer.",
                param=constraint.param,
            )
        return self._constrained

    async def _run(
        self, token_ids: Iterator[int], request: GenerateRequest, stream: Stream
    ) -> None:
        async with self._slots:
            self._running.add(_this_task())
            try:
                await self._compute(token_ids, request, stream)
            except EngineError as err:
                self.num_failed += 1
                stream.fail(err)
            finally:
                self._forget(_this_task())

    async def _compute(
        self, token_ids: Iterator[int], request: GenerateRequest, stream: Stream
    ) -> None:
        limit = min(request.max_tokens, self.info.max_model_len - len(request.prompt_token_ids))
        deltas = deltas_of(token_ids, limit, request.sampling.num_logprobs)
        # A token under a constraint may take milliseconds.
        is_slow = _binding_constraint(request.sampling) is not None
        await self._pause(self._settings.first_token_delay_s)
        for number in range(limit):
            delta = await asyncio.to_thread(next, deltas) if is_slow else next(deltas)
            await self._inject_fault(number)
            await self._pause(self._settings.token_delay_s)
            self.num_finished += delta.finish_reason is not None
            stream.put(delta)
            if delta.finish_reason is not None:
                return

    async def _inject_fault(self, num_tokens: int) -> None:
        """Fail or hang after so many tokens, when the settings say so."""
        if num_tokens == self._settings.fail_after_tokens:
            raise EngineError("The echo engine failed, as its settings ask for.")
        if num_tokens == self._settings.hang_after_tokens:
            self._hung_since = self._hung_since or time.monotonic()
            await self._pause(None)

    async def _pause(self, seconds: float | None) -> None:
        """Sleep for one turn of the event loop or longer, with None until the engine is closed.

        Raises:
            EngineError: The engine was closed.
        """
        if seconds == 0:
            await asyncio.sleep(0)
        else:
            # Not `wait_for`, which leaves a cycle with the request, and its pixels, when it is cancelled.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._closed.wait()
        if self._closed.is_set():
            raise EngineError("The engine was shut down.")


def _this_task() -> "asyncio.Task[None]":
    """Not kept in a variable of the task, which would make a cycle with the request when it is cancelled."""
    task = asyncio.current_task()
    assert task is not None
    return task


def _binding_constraint(sampling: SamplingParams) -> Constraint | None:
    constraint = sampling.constraint
    is_hint = isinstance(constraint, ToolCalls) and constraint.is_hint
    return None if is_hint else constraint
