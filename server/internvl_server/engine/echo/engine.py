"""An engine without a model: answers with the prompt's own text. For tests and client development.

Deterministic: the ids of the prompt that are neither image tokens, nor stop tokens, nor in
`skip_token_ids`, in order, then an end. It is certain of each token, so temperature, filters and penalties
change nothing. A `logit_bias` of -100 leaves a token out, and below `min_tokens` it says the text again.

Held to a format (`response_format`, a tool that must be called) it answers a short text of that format
instead, always the same; see `echo_guides.py`. Tools that may but need not be called change nothing: a call
that the prompt spells out is echoed like any text, and found there by who reads the answer.
"""

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import count, cycle, islice
from typing import TYPE_CHECKING

from internvl_server.core import (
    FinishReason,
    GenerateRequest,
    SamplingParams,
    TokenDelta,
    TokenLogprobs,
)
from internvl_server.engine.base import Capability, EngineHealth, EngineInfo
from internvl_server.engine.checks import RequestLimits, check_request
from internvl_server.engine.echo import CAPABILITIES
from internvl_server.engine.echo.narrowing import is_binding
from internvl_server.engine.health import health_of
from internvl_server.errors import (
    EngineError,
    EngineUnavailableError,
    UnsupportedParameterError,
)
from internvl_server.settings import EchoSettings

if TYPE_CHECKING:
    from internvl_server.engine.echo.answer import ShortAnswer
    from internvl_server.engine.echo.guides import EchoGuides

__all__ = ["EchoEngine"]

# OpenAI's: a token with this bias is never chosen.
_BANNING_BIAS = -100.0


@dataclass(slots=True)
class _Outcome:
    """How a request ended; it is aborted until it is known to have ended otherwise."""

    name: str = "aborted"


class EchoEngine:
    """Implements `internvl_server.engine.base.Engine` with the delays and failures its settings ask for.

    Requests beyond `max_num_seqs` wait in order. Each request that was entered counts in
    `num_started` and, once it is left, in one of `num_finished`, `num_failed` and `num_aborted`.

    Args:
        settings: Delays and failures.
        max_num_seqs: Most requests answered at the same time.
        max_model_len: Most tokens of a request, prompt and answer together.
        skip_token_ids: Ids no text can contain, which are not echoed.
        guides: What answers are held to; None where llguidance is not installed or the vocabulary is not
            byte-level.
    """

    def __init__(
        self,
        settings: EchoSettings,
        *,
        max_num_seqs: int,
        max_model_len: int,
        skip_token_ids: frozenset[int] = frozenset(),
        guides: "EchoGuides | None" = None,
    ) -> None:
        self.num_started = self.num_running = 0
        self._outcomes: Counter[str] = Counter()
        self._settings = settings
        self._skip_token_ids = skip_token_ids
        self._slots = asyncio.Semaphore(max_num_seqs)
        self._closed = asyncio.Event()
        self._state = "not started"
        self._guides = guides
        lacking = frozenset() if guides else frozenset({Capability.GUIDED_DECODING})
        capabilities = CAPABILITIES - lacking
        self._info = EngineInfo("echo", max_model_len, max_num_seqs, capabilities)

    @property
    def info(self) -> EngineInfo:
        """What does not change while the engine lives."""
        return self._info

    @property
    def num_waiting(self) -> int:
        """Requests that were entered, have not ended and hold no slot."""
        return self.num_started - self._outcomes.total() - self.num_running

    @property
    def num_finished(self) -> int:
        """Requests whose last delta was read."""
        return self._outcomes["finished"]

    @property
    def num_failed(self) -> int:
        """Requests that ended by an error of the engine."""
        return self._outcomes["failed"]

    @property
    def num_aborted(self) -> int:
        """Requests that were left before their last delta."""
        return self._outcomes["aborted"]

    async def start(self) -> None:
        """Be ready; there is nothing to load but the vocabulary for guides."""
        if self._guides is not None:
            await self._guides.start()
        self._state = "running"

    async def close(self) -> None:
        """Fail what is still read and refuse what comes."""
        self._state = "closed"
        self._closed.set()
        if self._guides is not None:
            self._guides.close()

    def health(self) -> EngineHealth:
        """Ready between `start` and `close`."""
        return health_of(self._state, num_running=self.num_running, num_waiting=self.num_waiting)

    @contextlib.asynccontextmanager
    async def generate(self, request: GenerateRequest) -> AsyncIterator[AsyncIterator[TokenDelta]]:
        """Queue a request; see `Engine.generate`."""
        self._check(request)
        guided = await self._begin_guided(request)
        self._check(request)
        self.num_started += 1
        outcome = _Outcome()
        answer = self._answer(request, guided, outcome)
        try:
            yield answer
        finally:
            await answer.aclose()
            self._outcomes[outcome.name] += 1

    def _check(self, request: GenerateRequest) -> None:
        """Refuse what cannot be answered, for the reasons any engine has."""
        if self._state != "running":
            raise EngineUnavailableError(f"The engine is {self._state}; try again later.")
        check_request(request, RequestLimits(self._info.max_model_len))

    async def _begin_guided(self, request: GenerateRequest) -> "ShortAnswer | None":
        """What is answered instead of the prompt's text, if the request asks for a format."""
        constraint = request.sampling.constraint
        if constraint is None or not is_binding(constraint):
            return None
        if self._guides is None:
            raise UnsupportedParameterError(
                "The echo engine holds answers to a format only with internvl-server[cpu] installed and "
                "a byte-level tokenizer.",
                param=constraint.param,
            )
        compiled = await self._guides.compile(constraint)
        return self._guides.begin(compiled, request, _banned_ids(request.sampling))

    async def _answer(
        self, request: GenerateRequest, guided: "ShortAnswer | None", outcome: _Outcome
    ) -> AsyncGenerator[TokenDelta, None]:
        async with self._slots:
            self.num_running += 1
            try:
                await self._pause(self._settings.first_token_delay_s)
                async with contextlib.aclosing(self._deltas(request, guided)) as deltas:
                    number = 0
                    async for delta in deltas:
                        await self._misbehave(number)
                        await self._pause(self._settings.token_delay_s)
                        number += 1
                        if delta.finish_reason is not None:
                            outcome.name = "finished"
                        yield delta
            except EngineError:
                outcome.name = "failed"
                raise
            finally:
                self.num_running -= 1

    async def _deltas(
        self, request: GenerateRequest, guided: "ShortAnswer | None"
    ) -> AsyncGenerator[TokenDelta, None]:
        """One token each; the end is a stop token where the request has any and there is room."""
        limit = min(request.max_tokens, self._info.max_model_len - len(request.prompt_token_ids))
        num_top = request.sampling.num_logprobs
        if guided is None:
            for token_ids, reason in self._echo(request, limit):
                yield _delta(token_ids, reason, num_top)
            return
        for number in range(1, limit + 1):
            token_ids = await asyncio.to_thread(guided.step)
            is_last = guided.has_ended or number == limit
            yield _delta(token_ids, _reason(guided.has_ended) if is_last else None, num_top)
            if is_last:
                return

    def _echo(
        self, request: GenerateRequest, limit: int
    ) -> Iterator[tuple[tuple[int, ...], FinishReason | None]]:
        """The tokens of the prompt's text; the last with the reason."""
        banned = _banned_ids(request.sampling)
        token_ids = self._text(request, banned)
        stop_ids = sorted(request.stop_token_ids - banned)[:1]
        reason = _reason(len(token_ids) < limit)
        token_ids = (token_ids + stop_ids)[:limit]
        yield from (((token_id,), None) for token_id in token_ids[:-1])
        yield tuple(token_ids[-1:]), reason

    def _text(self, request: GenerateRequest, banned: frozenset[int]) -> list[int]:
        """The prompt's text, as often as `min_tokens` asks for."""
        skipped = self._skip_token_ids | request.stop_token_ids | banned
        text = list(_text_ids(request, skipped))
        if len(text) < request.sampling.min_tokens:
            filler = text or [next(i for i in count() if i not in skipped)]
            text = list(islice(cycle(filler), request.sampling.min_tokens))
        return text

    async def _misbehave(self, num_tokens: int) -> None:
        """Fail or hang after so many tokens, when the settings say so."""
        if num_tokens == self._settings.fail_after_tokens:
            raise EngineError("The echo engine failed, as its settings ask for.")
        if num_tokens == self._settings.hang_after_tokens:
            await self._pause(math.inf)

    async def _pause(self, seconds: float) -> None:
        """Sleep, but no longer than until the engine is closed.

        Raises:
            EngineError: The engine was closed.
        """
        if seconds > 0 and not self._closed.is_set():
            with contextlib.suppress(TimeoutError):
                timeout = None if math.isinf(seconds) else seconds
                await asyncio.wait_for(self._closed.wait(), timeout)
        else:
            # One turn of the loop for each token, as with an engine that computes.
            await asyncio.sleep(0)
        if self._closed.is_set():
            raise EngineError("The engine was shut down.")


def _text_ids(request: GenerateRequest, skipped: frozenset[int]) -> Iterator[int]:
    start = 0
    for span in request.images:
        yield from (i for i in request.prompt_token_ids[start : span.offset] if i not in skipped)
        start = span.offset + span.num_image_tokens
    yield from (i for i in request.prompt_token_ids[start:] if i not in skipped)


def _reason(has_ended: bool) -> FinishReason:  # noqa: FBT001
    return "stop" if has_ended else "length"


def _delta(
    token_ids: tuple[int, ...], reason: FinishReason | None, num_top: int | None
) -> TokenDelta:
    logprobs = None if num_top is None else tuple(_logprobs(i, num_top) for i in token_ids)
    return TokenDelta(token_ids, reason, logprobs)


def _banned_ids(params: SamplingParams) -> frozenset[int]:
    return frozenset(i for i, bias in params.logit_bias if bias <= _BANNING_BIAS)


def _logprobs(token_id: int, num_top: int) -> TokenLogprobs:
    """Certainty of one token; others that are as good as impossible, from id 0 on."""
    others = islice((i for i in count() if i != token_id), max(num_top - 1, 0))
    top = [(token_id, 0.0), *((i, -100.0 * rank) for rank, i in enumerate(others, start=1))]
    return TokenLogprobs(0.0, tuple(top[:num_top]))
