"""POST /v1/chat/completions."""

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from server.api.body import read_json_body
from server.api.disconnect import run_until_disconnect
from server.api.services import Services, ServicesDep
from server.api.sse import EventStream, chat_frames
from server.pipeline import Generation
from server.protocol.chat import ChatCompletionRequest, parse_chat_request
from server.protocol.conversation import to_conversation
from server.protocol.render import ChunkWriter, completion
from server.protocol.sampling import to_sampling_params
from server.telemetry.request_id import new_request_id

__all__ = ["router"]

router = APIRouter()

# Bodies up to this size parse in well under a millisecond: not worth a thread.
_MAX_BYTES_ON_LOOP = 65_536

_BODY_SCHEMA = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": ChatCompletionRequest.model_json_schema()}},
    }
}


@router.post("/v1/chat/completions", openapi_extra=_BODY_SCHEMA, response_model=None)
async def create_chat_completion(request: Request, services: ServicesDep) -> Response:
    """Answer a conversation, streaming or not."""
    completion_id = f"chatcmpl-{new_request_id()}"
    async with AsyncExitStack() as owner:
        owner.enter_context(services.gate.admit())
        accepted = await _accept(completion_id, request, services, owner)
        if accepted.is_stream:
            return _stream(completion_id, accepted, services, owner.pop_all())
        return await _whole(completion_id, request, accepted.generation, services)


@dataclass(frozen=True, slots=True)
class _Accepted:
    """What is left of a request once it runs: its body, large with pictures in it, is gone."""

    generation: Generation
    is_stream: bool
    include_usage: bool


async def _accept(
    completion_id: str, request: Request, services: Services, owner: AsyncExitStack
) -> _Accepted:
    """Everything that can refuse the request."""
    limits = services.settings.limits
    data = await read_json_body(request, limits)
    if len(data) <= _MAX_BYTES_ON_LOOP:
        body = parse_chat_request(data, limits)
    else:
        body = await asyncio.to_thread(parse_chat_request, data, limits)
    del data
    services.check_model(body.model)
    sampling = to_sampling_params(body)
    work = services.chat.prepare(completion_id, to_conversation(body), sampling, owner)
    options = body.stream_options
    return _Accepted(
        generation=await run_until_disconnect(request, work),
        is_stream=bool(body.stream),
        include_usage=bool(options and options.include_usage),
    )


def _stream(
    completion_id: str, accepted: _Accepted, services: Services, owner: AsyncExitStack
) -> Response:
    writer = ChunkWriter(
        completion_id,
        services.checkpoint.served_name,
        created=int(time.time()),
        fingerprint=services.fingerprint,
        include_usage=accepted.include_usage,
    )
    frames = chat_frames(accepted.generation, writer, include_usage=accepted.include_usage)
    return EventStream(frames, owner=owner, settings=services.settings.server)


async def _whole(
    completion_id: str, request: Request, generation: Generation, services: Services
) -> Response:
    created = int(time.time())
    answer = await run_until_disconnect(request, generation.complete())
    return JSONResponse(
        completion(
            completion_id,
            services.checkpoint.served_name,
            created=created,
            fingerprint=services.fingerprint,
            answer=answer,
        )
    )
