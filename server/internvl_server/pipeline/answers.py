"""One answer to a request: takes its tokens from the engine and passes on what is certain."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from internvl_server.core import TextDelta, TokenDelta
from internvl_server.engine.stream import Stream
from internvl_server.errors import ServerError
from internvl_server.output.text import AnswerText
from internvl_server.pipeline.conformity import CheckedAnswer
from internvl_server.telemetry.tokens import TokenMeter

__all__ = ["Answer", "Reader"]


class Reader(Protocol):
    """Takes what is certain of one answer or of all, as plain calls on the event loop."""

    @property
    def put_json(self) -> Callable[[int, bytes], None] | None:
        """Takes a choice's index and a delta that has nothing but text, as an encoded JSON string.

        None if it takes every delta by `put`.
        """

    def put(self, delta: TextDelta) -> None:
        """Take a delta. The last one of all answers has the `usage`, and nothing follows it."""

    def fail(self, error: Exception) -> None:
        """Take what ended the answers instead. Nothing follows it."""


class Answer:
    """One answer to a request, one of the API's `choices`, while it is generated.

    It is a sink of the engine's stream, from which nothing wakes a task: only a check of the text makes one.

    Args:
        index: Its number in the request.
        stream: The engine's stream.
        text: Converts the tokens.
        checked: Checks the text; None where the engine enforces all of the constraint.
        meter: Counts its tokens.

    Attributes:
        first_at: When the first tokens came, by `time.monotonic`; 0 before.
        last_at: When the last ones came.
    """

    __slots__ = (
        "_add_gap", "_check", "_checked", "_is_over", "_is_paused", "_meter", "_put_json", "_reader",
        "_stream", "_text", "first_at", "index", "last_at", "num_cached_tokens",
    )  # fmt: skip

    def __init__(
        self,
        index: int,
        stream: Stream,
        text: AnswerText,
        checked: CheckedAnswer | None = None,
        *,
        meter: TokenMeter,
    ) -> None:
        self.index = index
        self._stream = stream
        self._text = text
        self._checked = checked
        self._check: asyncio.Task[None] | None = None
        self._is_paused = self._is_over = False
        self._put_json: Callable[[int, bytes], None] | None = None
        self._reader: Reader
        self.num_cached_tokens = 0
        self.first_at = self.last_at = 0.0
        self._meter = meter
        self._add_gap = meter.gaps.append
        meter.begin(self)

    @property
    def num_tokens(self) -> int:
        """Tokens generated so far, including the one that ends the answer."""
        return self._text.num_tokens

    @property
    def num_reasoning_tokens(self) -> int:
        """Those of them that belong to reasoning."""
        return self._text.num_reasoning_tokens

    def resume(self, reader: Reader) -> None:
        """Pass text to a reader from now on: each delta that is not empty; the last has a `finish_reason`."""
        self._reader = reader
        self._put_json = reader.put_json if self._checked is None else None
        self._is_paused = False
        self._attach()

    def pause(self) -> None:
        """Let the tokens gather."""
        self._is_paused = True
        self._stream.detach()

    def end(self) -> None:
        """Take no more tokens, and end the request in the engine."""
        self._is_over = True
        self._stream.detach()
        self._stream.abort()
        self._meter.end(self)

    def break_off(self, error: ServerError) -> None:
        """End the request in the engine, and have the error follow the tokens so far."""
        self._stream.abort()
        self._stream.fail(error)

    async def aclose(self) -> None:
        """End the answer, and the check of its text. Idempotent."""
        self.end()
        if self._check is not None:
            self._check.cancel()
            await asyncio.gather(self._check, return_exceptions=True)

    def put(self, delta: TokenDelta) -> None:
        """Take tokens; called by the stream."""
        now = time.monotonic()
        if self.first_at:
            self._add_gap(now - self.last_at)
        else:
            self.first_at = now
        self.last_at = now
        try:
            put_json = None if delta.finish_reason else self._put_json
            if put_json is None or (text := self._text.push_json(delta.token_ids)) is None:
                self._put(delta)
            elif text:
                put_json(self.index, text)
        except Exception as error:  # noqa: BLE001  (a defect, which the client must learn of)
            self.end()
            self._reader.fail(error)

    def fail(self, error: ServerError) -> None:
        """Take the engine's error; called by the stream."""
        self._is_over = True
        self._reader.fail(error)

    def _put(self, delta: TokenDelta) -> None:
        self.num_cached_tokens = max(self.num_cached_tokens, delta.num_cached_tokens)
        new = self._text.push(delta)
        if new[-1].finish_reason is not None:
            self.end()  # the engine does not know stop strings and would go on
        if self._checked is None:
            for part in new:
                self._pass_on(part)
        else:
            self._stream.detach()
            self._check = asyncio.create_task(self._put_checked(self._checked, new))

    async def _put_checked(self, checked: CheckedAnswer, deltas: list[TextDelta]) -> None:
        try:
            parts = await checked.push_all(deltas)
            self._check = None
            if parts[-1].finish_reason is not None:
                self.end()  # the check may end the answer too
            for part in parts:
                self._pass_on(part)
            self._attach()
        except Exception as error:  # noqa: BLE001  (as above)
            self.end()
            self._reader.fail(error)

    def _pass_on(self, delta: TextDelta) -> None:
        is_empty = not (delta.text or delta.reasoning or delta.tool_calls)
        if not is_empty or delta.finish_reason is not None:
            self._reader.put(replace(delta, index=self.index) if self.index else delta)

    def _attach(self) -> None:
        if not (self._is_paused or self._is_over or self._check):
            self._stream.attach(self)
