"""Converts TurboMind's outputs: tokens, log probabilities and statuses."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from lmdeploy.messages import EngineOutput, ResponseType

from internvl_server.core import SamplingParams, TokenLogprobs
from internvl_server.errors import (
    ContextLengthExceededError,
    EngineError,
    EngineOverloadedError,
    EngineUnavailableError,
    ServerError,
)

__all__ = ["Output", "OutputReader", "SchedulerMetrics"]

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
class Output:
    """New token ids of a request; `is_last` once the native side is done with it."""

    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] | None = None
    num_cached_tokens: int = 0
    is_last: bool = False
    error: ServerError | None = None


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


class OutputReader:
    """Reads the outputs of one request, in order.

    Args:
        sampling: Parameters of the request.
        vocab_size: Number of logits in a row that belong to tokens; the rest is padding.
    """

    def __init__(self, sampling: SamplingParams, vocab_size: int) -> None:
        self._num_top = sampling.num_logprobs
        self._vocab_size = vocab_size
        self._num_read = 0

    def read(self, output: EngineOutput) -> Output:
        """Convert one output. With logits this takes about a millisecond a token."""
        token_ids = tuple(output.token_ids)
        metrics = output.req_metrics
        num_cached = 0 if metrics is None else int(metrics.cached_tokens)
        if output.status not in (ResponseType.SUCCESS, ResponseType.FINISH):
            kind, message = _ERRORS[output.status]
            return Output(token_ids, None, num_cached, is_last=True, error=kind(message))
        logprobs = self._logprobs(token_ids, output)
        self._num_read += len(token_ids)
        return Output(token_ids, logprobs, num_cached, is_last=output.status == ResponseType.FINISH)

    def _logprobs(
        self, token_ids: tuple[int, ...], output: EngineOutput
    ) -> tuple[TokenLogprobs, ...] | None:
        if self._num_top is None:
            return None
        if output.logits is not None:
            # LMDeploy returns all rows so far, one for each token of the answer.
            rows = output.logits[self._num_read :, : self._vocab_size]
            pairs = zip(token_ids, rows, strict=True)
            return tuple(_from_logits(token_id, row, self._num_top) for token_id, row in pairs)
        if output.logprobs is None:
            return None
        found = zip(token_ids, output.logprobs, strict=True)
        return tuple(_from_likeliest(token_id, row, self._num_top) for token_id, row in found)


def _from_logits(token_id: int, logits: torch.Tensor, num_top: int) -> TokenLogprobs:
    """Log probabilities from one row of logits, (vocab_size,), in the model's dtype."""
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    values, ids = logprobs.topk(num_top)
    top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenLogprobs(float(logprobs[token_id]), top)


def _from_likeliest(token_id: int, row: Mapping[int, float], num_top: int) -> TokenLogprobs:
    """LMDeploy's row holds the likeliest tokens, and the chosen token whatever its rank."""
    ranked = sorted(row.items(), key=lambda item: -item[1])
    return TokenLogprobs(row.get(token_id, -math.inf), tuple(ranked[:num_top]))
