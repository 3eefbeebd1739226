"""The engine contract: everything the rest of the server knows about an engine."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from internvl_server.core import Constraint, GenerateRequest, PixelType
from internvl_server.engine.stream import Stream

__all__ = ["Capability", "Engine", "EngineHealth", "EngineInfo"]


class Capability(StrEnum):
    """An optional ability of an engine; the value is the name of the request field that needs it."""

    TOP_K = "top_k"
    MIN_P = "min_p"
    REPETITION_PENALTY = "repetition_penalty"
    SEED = "seed"
    IMAGES = "image_url"
    LOGPROBS = "logprobs"
    GUIDED_DECODING = "response_format"
    GUIDED_TOOL_CALLS = "tools"  # also of calls that the model makes by its own choice
    LOGIT_BIAS = "logit_bias"
    PRESENCE_PENALTY = "presence_penalty"
    FREQUENCY_PENALTY = "frequency_penalty"
    MIN_TOKENS = "min_tokens"


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Facts that do not change while an engine lives.

    `max_model_len` is the largest number of tokens of one request, prompt and completion together, and
    `max_num_seqs` of requests computed at the same time. What needs one of the `ignored` capabilities is left
    out with a warning, not refused. `default_max_tokens` limits an answer whose request has no limit; 0 is no
    limit. `pixel_type`, of its `pixel_values`, may be known only once it has started.
    """

    backend: str
    max_model_len: int
    max_num_seqs: int
    capabilities: frozenset[Capability]
    ignored: frozenset[Capability] = frozenset()
    default_max_tokens: int = 0
    pixel_type: PixelType = PixelType.FLOAT32


@dataclass(frozen=True, slots=True)
class EngineHealth:
    """Current status. A ready engine can produce tokens; one that is not alive has hung or ended.

    `num_unconfirmed` running requests were cancelled but do not end. Work has made no progress for
    `silence_s`. `kv_usage` is the part of the KV cache in use, if it is known.
    """

    is_ready: bool
    reason: str
    num_running: int = 0
    num_waiting: int = 0
    num_unconfirmed: int = 0
    kv_usage: float | None = None
    is_alive: bool = True
    silence_s: float = 0.0


class Engine(Protocol):
    """One loaded model that turns token ids into token ids. It deals with neither text nor HTTP.

    `generate` returns a context manager: leaving it, for any reason, aborts the request in the engine
    and frees what it held. No other call aborts.
    """

    @property
    def info(self) -> EngineInfo:
        """Facts that do not change while the engine lives."""

    async def start(self) -> None:
        """Load the model.

        Raises:
            StartupError: It cannot be loaded; the message says why and what to change.
        """

    async def close(self) -> None:
        """Abort all requests and free everything. Idempotent."""

    def health(self) -> EngineHealth:
        """Current status; cheap enough for every probe."""

    async def compile(self, constraint: Constraint) -> tuple[str, ...]:
        """Compile a constraint before `generate`; returns the schema keywords it does not enforce."""

    def generate(self, request: GenerateRequest) -> Stream:
        """Queue a request; the stream yields deltas until one carries a `finish_reason`.

        Entering raises `EngineUnavailableError` when the engine is not running and
        `InvalidRequestError` when the request can never fit or its constraint cannot be compiled. Iterating
        raises `EngineError` when the engine fails. A stop token that ended the request is its last id.
        """
