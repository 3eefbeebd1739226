"""Server-sent events: frames of a streamed answer, and the response that owns its resources."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import AppStatus, SendTimeoutError
from starlette.types import Receive, Scope, Send

from internvl_server.api.errors import error_frame
from internvl_server.pipeline import Generation
from internvl_server.protocol.chat.render import ChunkWriter
from internvl_server.protocol.dialects import CHAT, Dialect
from internvl_server.settings import ServerSettings

__all__ = ["EventStream", "chat_frames", "data_frames"]

_log = logging.getLogger(__name__)

# Ending streams when the server is told to stop is the drain's decision, not the library's.
AppStatus.enable_automatic_graceful_drain = False


class EventStream(EventSourceResponse):
    """A stream of ready-made frames that closes its owner when it ends, however it ends.

    Args:
        frames: Encoded events.
        owner: Holds the permit and the engine's request; closed in any case, also when the client
            left before the first frame was asked for.
        settings: How often to ping, and how long a reader may stop reading.
    """

    def __init__(
        self, frames: AsyncIterator[bytes], *, owner: AsyncExitStack, settings: ServerSettings
    ) -> None:
        super().__init__(
            frames,
            ping=settings.sse_keep_alive_s,
            sep="\n",
            ping_message_factory=_ping,
            send_timeout=settings.send_timeout_s,
        )
        self._owner = owner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            _log.warning("the client stopped reading its stream")
        finally:
            await self._owner.aclose()


def _ping() -> ServerSentEvent:
    return ServerSentEvent(comment="ping", sep="\n")


async def chat_frames(
    generation: Generation, writer: ChunkWriter, *, include_usage: bool
) -> AsyncIterator[bytes]:
    """The frames of one chat completion."""
    chunks = _chat_chunks(generation, writer, include_usage=include_usage)
    async for frame in data_frames(chunks, CHAT):
        yield frame


async def _chat_chunks(
    generation: Generation, writer: ChunkWriter, *, include_usage: bool
) -> AsyncIterator[bytes]:
    for index in range(generation.num_choices):
        yield writer.role(index)
    async for delta in generation.deltas():
        if delta.text or delta.tool_calls or delta.logprobs:
            yield writer.delta(delta)
        if delta.finish_reason is not None:
            yield writer.finish(delta)
        if include_usage and delta.usage is not None:
            yield writer.usage(delta.usage)


async def data_frames(chunks: AsyncIterator[bytes], dialect: Dialect) -> AsyncIterator[bytes]:
    """Each chunk as an event. A failure is the last frame; then there is no `[DONE]`."""
    try:
        async for chunk in chunks:
            yield _frame(chunk)
    except Exception as error:  # noqa: BLE001  (the edge: whatever it is, the client must be told)
        yield error_frame(error, dialect)
        return
    yield b"data: [DONE]\n\n"


def _frame(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
