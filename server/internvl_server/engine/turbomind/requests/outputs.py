"""Converts TurboMind's outputs: tokens, log probabilities and statuses."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lmdeploy.messages import ResponseType

from internvl_server.core import FinishReason, GenerateRequest, TokenDelta, TokenLogprobs
from internvl_server.errors import (
    ContextLengthExceededError,
    EngineError,
    EngineOverloadedError,
    EngineUnavailableError,
    ServerError,
)

__all__ = ["NativeOutputs", "OutputReader", "SchedulerMetrics"]

_FINISH = 7

# The error for each status that is neither progress nor an end.
_ERRORS: Mapping[ResponseType, tuple[type[ServerError], str]] = {
    ResponseType.INPUT_LENGTH_ERROR: (
        ContextLengthExceededError,
        "The prompt does not fit the memory the engine has for one request. Shorten it.",
    ),
    ResponseType.NO_QUEUE: (EngineUnavailableError, "The engine accepts no requests now."),
    ResponseType.OUT_OF_MEMORY: (
        EngineOverloadedError,
        "The engine has no memory for this request now. Try again later, or send a shorter one.",
    ),
    ResponseType.ENGINE_STOP_ERROR: (EngineUnavailableError, "The engine was stopped."),
    ResponseType.HANDLER_NOT_EXIST: (EngineError, "The engine lost the request."),
    ResponseType.SESSION_NOT_EXIST: (EngineError, "The engine does not accept the request."),
    ResponseType.SESSION_REPEAT: (EngineError, "The engine mixed up two requests."),
    ResponseType.PREFIX_CACHE_CONFLICT: (
        EngineError,
        "The engine's prefix cache does not allow it.",
    ),
    ResponseType.NOT_SUPPORTED: (EngineError, "The engine does not support the request."),
    ResponseType.INTERNAL_ENGINE_ERROR: (EngineError, "The engine failed."),
    ResponseType.CANCEL: (EngineError, "The engine cancelled the request."),
}


@dataclass(frozen=True, slots=True)
class SchedulerMetrics:
    """What TurboMind's scheduler says about itself. Shares are between 0 and 1.

    `tick` counts its runs, `cache_usage` is the share of the key-value cache in use, and
    `prefix_cache_hit_rate` the share of prompt tokens that were reused.
    """

    tick: int
    num_active: int
    num_waiting: int
    cache_usage: float
    prefix_cache_hit_rate: float


@dataclass(frozen=True, slots=True)
class NativeOutputs:
    """What the native side returns for a request, and writes its outputs to.

    `consume` takes the newest state that has not been taken, or None. `metrics` has the number of cached
    tokens; None if TurboMind does not count them. `tensors` has `output_ids`, the prompt's included, and what
    was asked for of `logits` and `logprob_{vals,indexes,nums}`, a row for each token of the answer.
    """

    consume: Callable[[], Any]
    metrics: Any
    tensors: Mapping[str, torch.Tensor]


class OutputReader:
    """Reads the outputs of one request, in order.

    `has_ended` is true once the native side has reported the end, whatever reading it gave. A reader that is
    `is_slow` takes about a millisecond a token and reads on a thread.

    Args:
        request: The request.
        outputs: What the native side returned for it.
        vocab_size: Number of logits in a row that belong to tokens; the rest is padding.
        errors: LMDeploy's name for each native status.
    """

    def __init__(
        self,
        request: GenerateRequest,
        outputs: NativeOutputs,
        vocab_size: int,
        errors: Mapping[int, ResponseType],
    ) -> None:
        self.has_ended = False
        self._num_top = request.sampling.num_logprobs
        self.is_slow = self._num_top is not None and "logits" in outputs.tensors
        self._stop_token_ids = request.stop_token_ids
        self._outputs, self._errors = outputs, errors
        self._consume = outputs.consume
        self._ids = outputs.tensors["output_ids"].numpy().data
        self._vocab_size = vocab_size
        self._start = self._end = len(request.prompt_token_ids)
        self._num_cached = 0

    def read(self) -> TokenDelta | ServerError | None:
        """New tokens, the last with a reason, or the error that ended the request; None for no news."""
        state = self._consume()
        if state is None:
            return None
        status = state.status
        self.has_ended = status != 0
        if status not in (0, _FINISH):
            kind, message = _ERRORS[self._errors.get(status, ResponseType.INTERNAL_ENGINE_ERROR)]
            return kind(message)
        begin, self._end = self._end, state.seq_len
        if begin == self._end and not status:
            return None
        if status or begin == self._start:
            self._num_cached = self._cached_tokens()
        ids = tuple(self._ids[begin : self._end])
        logprobs = None if self._num_top is None else self._logprobs(ids, begin - self._start)
        return TokenDelta(ids, self._reason() if status else None, logprobs, self._num_cached)

    def _reason(self) -> FinishReason:
        has_stopped = self._end > self._start and self._ids[self._end - 1] in self._stop_token_ids
        return "stop" if has_stopped else "length"

    def _cached_tokens(self) -> int:
        metrics = self._outputs.metrics
        return 0 if metrics is None else int(metrics.cached_tokens)

    def _logprobs(self, token_ids: tuple[int, ...], place: int) -> tuple[TokenLogprobs, ...] | None:
        """Of tokens whose first has this place in the answer."""
        assert self._num_top is not None
        tensors = self._outputs.tensors
        rows = slice(place, place + len(token_ids))
        if self.is_slow:
            pairs = zip(token_ids, tensors["logits"][rows, : self._vocab_size], strict=True)
            return tuple(_from_logits(token_id, row, self._num_top) for token_id, row in pairs)
        numbers = tensors["logprob_nums"][rows].tolist()
        ids, values = tensors["logprob_indexes"][rows], tensors["logprob_vals"][rows]
        likeliest = [
            dict(zip(ids[row, :number].tolist(), values[row, :number].tolist(), strict=True))
            for row, number in enumerate(numbers)
        ]
        pairs_ = zip(token_ids, likeliest, strict=True)
        return tuple(_from_likeliest(token_id, row, self._num_top) for token_id, row in pairs_)


def _from_logits(token_id: int, logits: torch.Tensor, num_top: int) -> TokenLogprobs:
    """Log probabilities from one row of logits, (vocab_size,), in the model's dtype."""
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    values, ids = logprobs.topk(num_top)
    top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenLogprobs(float(logprobs[token_id]), top)


def _from_likeliest(token_id: int, row: Mapping[int, float], num_top: int) -> TokenLogprobs:
    """The native row holds the likeliest tokens, at most 1024 of them."""
    ranked = sorted(row.items(), key=lambda item: -item[1])
    return TokenLogprobs(row.get(token_id, -math.inf), tuple(ranked[:num_top]))
