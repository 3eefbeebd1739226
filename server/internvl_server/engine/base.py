"""The whole engine contract: what the rest of the server knows about any engine."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeAlias

from internvl_server.core import GenerateRequest, TokenDelta

__all__ = [
    "Capability",
    "Engine",
    "EngineHealth",
    "EngineInfo",
    "TokenStream",
]

TokenStream: TypeAlias = AbstractAsyncContextManager[AsyncIterator[TokenDelta]]


class Capability(StrEnum):
    """What an engine may or may not be able to do; the value is the request parameter's name."""

    TOP_K = "top_k"
    MIN_P = "min_p"
    REPETITION_PENALTY = "repetition_penalty"
    SEED = "seed"
    IMAGES = "image_url"
    LOGPROBS = "logprobs"
    GUIDED_DECODING = "response_format"
    # Calls in an answer that need not call a tool are held to the tools, too.
    GUIDED_TOOL_CALLS = "tools"
    LOGIT_BIAS = "logit_bias"
    PRESENCE_PENALTY = "presence_penalty"
    FREQUENCY_PENALTY = "frequency_penalty"
    MIN_TOKENS = "min_tokens"


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What does not change while an engine lives.

    `max_model_len` is the most tokens, prompt and completion together, of one request; `max_num_seqs`
    the most requests computed at the same time.
    """

    backend: str
    max_model_len: int
    max_num_seqs: int
    capabilities: frozenset[Capability]


@dataclass(frozen=True, slots=True)
class EngineHealth:
    """How the engine is now. Ready means: it can produce a token, judged by its progress."""

    is_ready: bool
    reason: str
    num_running: int = 0
    num_waiting: int = 0


class Engine(Protocol):
    """One loaded model that turns token ids into token ids. It knows no text, no HTTP, no files.

    `generate` returns a context manager: leaving it, for any reason, aborts the request in the engine
    and frees what it held. No other call aborts.
    """

    @property
    def info(self) -> EngineInfo:
        """What does not change while the engine lives."""

    async def start(self) -> None:
        """Load the model.

        Raises:
            StartupError: If it cannot be loaded, with the reason and what to change.
        """

    async def close(self) -> None:
        """Abort what runs and free everything. Idempotent."""

    def health(self) -> EngineHealth:
        """How the engine is now; cheap enough for every probe."""

    def generate(self, request: GenerateRequest) -> TokenStream:
        """Queue a request; the stream yields deltas until one carries a `finish_reason`.

        Entering raises `EngineUnavailableError` when the engine is not running and
        `InvalidRequestError` when the request can never fit or its guide cannot be followed. Iterating
        raises `EngineError` when the engine fails. The last delta has a `finish_reason`; a stop token
        that ended the request is its last id.
        """
