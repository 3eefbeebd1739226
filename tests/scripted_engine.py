"""An engine that plays given tokens."""

import asyncio
from collections.abc import Sequence
from functools import partial

from internvl_server.core import (
    Constraint,
    FinishReason,
    GenerateRequest,
    TokenDelta,
    TokenLogprobs,
)
from internvl_server.engine.base import Capability, EngineHealth, EngineInfo
from internvl_server.engine.stream import Abort, Stream


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

    def generate(self, request: GenerateRequest) -> Stream:
        return Stream(partial(self._accept, request))

    async def _accept(self, request: GenerateRequest, stream: Stream) -> Abort:
        self.requests.append(request)
        task = asyncio.create_task(self._run(request, stream))

        def abort() -> None:
            task.cancel()

        return abort

    async def _run(self, request: GenerateRequest, stream: Stream) -> None:
        place = 0
        for ids in [*self.script, (self.end_id,)]:
            await asyncio.sleep(0)
            kept = tuple(ids)[: request.max_tokens - place]
            logprobs = tuple(TokenLogprobs(-float(place + i)) for i in range(len(kept)))
            place += len(kept)
            is_end = kept[-1:] == (self.end_id,)
            reason: FinishReason | None = (
                "stop" if is_end else "length" if place == request.max_tokens else None
            )
            stream.put(TokenDelta(kept, reason, logprobs))
            if reason is not None:
                return
