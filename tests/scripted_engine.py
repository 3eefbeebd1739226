"""An engine that plays given tokens."""

import contextlib
from collections.abc import AsyncIterator, Sequence

from internvl_server.core import (
    Constraint,
    FinishReason,
    GenerateRequest,
    TokenDelta,
    TokenLogprobs,
)
from internvl_server.engine.base import Capability, EngineHealth, EngineInfo


class ScriptedEngine:
    """Implements `internvl_server.engine.base.Engine`: each request gets the same deltas.

    `script` holds the ids of each delta; the last of them ends the answer, unless `max_tokens` does. Every
    token has the log probability of its place.
    """

    def __init__(self, script: Sequence[Sequence[int]] = (), *, end_id: int) -> None:
        self.script = script
        self.end_id = end_id
        self.requests: list[GenerateRequest] = []
        self.info = EngineInfo("scripted", 2048, 4, frozenset(Capability))

    async def start(self) -> None:
        """Nothing is loaded."""

    async def close(self) -> None:
        """Nothing is held."""

    def health(self) -> EngineHealth:
        return EngineHealth(True, "")

    async def compile(self, constraint: Constraint) -> tuple[str, ...]:
        return ()

    @contextlib.asynccontextmanager
    async def generate(self, request: GenerateRequest) -> AsyncIterator[AsyncIterator[TokenDelta]]:
        self.requests.append(request)
        yield self._deltas(request)

    async def _deltas(self, request: GenerateRequest) -> AsyncIterator[TokenDelta]:
        place = 0
        for ids in [*self.script, (self.end_id,)]:
            kept = tuple(ids)[: request.max_tokens - place]
            logprobs = tuple(TokenLogprobs(-float(place + i)) for i in range(len(kept)))
            place += len(kept)
            is_end = kept[-1:] == (self.end_id,)
            reason: FinishReason | None = (
                "stop" if is_end else "length" if place == request.max_tokens else None
            )
            yield TokenDelta(kept, reason, logprobs)
            if reason is not None:
                return
