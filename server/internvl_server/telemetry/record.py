"""What is known of one request: when its stages began and ended, and how it ended.

Stages write to the record of the current request; when the request has ended, observers read it. All times
are those of `time.monotonic`, in seconds.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

__all__ = ["RequestRecord", "Stage", "StageTime", "add_stage", "current_record", "stage"]


class Stage(StrEnum):
    """A part of a request's work."""

    FETCH = "fetch"
    """Loading the file of an image or video from its host."""
    DECODE_MEDIA = "decode_media"
    """Decoding an image or video, in a worker process."""
    TILE = "tile"
    """Resizing and normalising its tiles, in the same process."""
    TOKENIZE = "tokenize"
    QUEUE = "queue"
    """Waiting for a place in the engine."""
    PREFILL = "prefill"
    """From the engine's acceptance to the first token of the first answer."""
    DECODE = "decode"
    """From the first token to the last."""


class StageTime(NamedTuple):
    """When a stage began and ended. A stage may occur several times, at the same time as others."""

    stage: Stage
    started: float
    ended: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.started


@dataclass(slots=True)
class RequestRecord:
    """One request.

    Attributes:
        request_id: Its id.
        method: Of HTTP.
        started: When it arrived.
        ended: When its answer, or its connection, ended; 0 until then.
        route: The path of its route, with placeholders; "other" if it has none.
        client: Name of its key.
        status: Of the answer; 499 if the client left before its end.
        outcome: "ok", "refused" (4xx), "left" (by the client), or "failed".
        error_code: The code of the error that it was answered with; empty without one.
        trace_id: Of its trace, as 32 hexadecimal digits; empty without one.
        trace_response: Its span as a `traceparent`, for the answer; empty without one.
        stages: What was done before the engine had the request.
        entered_at: When the engine had accepted all of its prompts; 0 if it never did.
        first_token_at: When its first token arrived; 0 without one.
        last_token_at: When the last token so far arrived.
        first_event_at: When the first event of a stream was written; 0 without one.
        num_prompt_tokens: Tokens of its prompts, images included.
        num_image_tokens: Those of images and frames.
        num_images: Images and frames.
        num_tiles: Tiles of all of them.
        num_cached_tokens: Prompt tokens whose prefill was skipped.
        num_completion_tokens: Tokens of all answers.
        finish_reasons: One of each answer that came to its end.
    """

    request_id: str
    method: str = ""
    started: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    route: str = "other"
    client: str = "-"
    status: int = 0
    outcome: str = ""
    error_code: str = ""
    trace_id: str = ""
    trace_response: str = ""
    stages: list[StageTime] = field(default_factory=list)
    entered_at: float = 0.0
    first_token_at: float = 0.0
    last_token_at: float = 0.0
    first_event_at: float = 0.0
    num_prompt_tokens: int = 0
    num_image_tokens: int = 0
    num_images: int = 0
    num_tiles: int = 0
    num_cached_tokens: int = 0
    num_completion_tokens: int = 0
    finish_reasons: tuple[str, ...] = ()

    def all_stages(self) -> list[StageTime]:
        """Its stages, with those of the engine, so far."""
        found = [*self.stages]
        if self.first_token_at:
            found.append(StageTime(Stage.PREFILL, self.entered_at, self.first_token_at))
            found.append(StageTime(Stage.DECODE, self.first_token_at, self.last_token_at))
        return found


current_record: ContextVar[RequestRecord | None] = ContextVar("current_record", default=None)


def add_stage(name: Stage, started: float, ended: float) -> None:
    """Note a stage of the current request, if there is one."""
    record = current_record.get()
    if record is not None:
        record.stages.append(StageTime(name, started, ended))


@contextmanager
def stage(name: Stage) -> Iterator[None]:
    """Note a stage of the current request, which ends with the block, also by an exception."""
    started = time.monotonic()
    try:
        yield
    finally:
        add_stage(name, started, time.monotonic())
