"""POST /v1/chat/completions."""

import time
from contextlib import AsyncExitStack

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from server.api.body import read_json_body
from server.api.disconnect import run_until_disconnect
from server.api.services import Services, ServicesDep
from server.api.sse import EventStream, chat_frames
from server.pipeline import Generation
from server.protocol.chat import ChatCompletionRequest, parse_chat_request
from server.protocol.convert import to_conversation, to_sampling_params
from server.protocol.render import ChunkWriter, completion
from server.telemetry.request_id import new_request_id

__all__ = ["router"]

router = APIRouter()

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
        body = parse_chat_request(await read_json_body(request, services.settings.limits))
        services.check_model(body.model)
        conversation = to_conversation(body, services.settings.limits)
        work = services.chat.prepare(completion_id, conversation, to_sampling_params(body), owner)
        generation = await run_until_disconnect(request, work)
        if body.stream:
            return _stream(completion_id, body, generation, services, owner.pop_all())
        return await _whole(completion_id, request, generation, services)


def _stream(
    completion_id: str,
    body: ChatCompletionRequest,
    generation: Generation,
    services: Services,
    owner: AsyncExitStack,
) -> Response:
    include_usage = bool(body.stream_options and body.stream_options.include_usage)
    writer = ChunkWriter(
        completion_id,
        services.checkpoint.served_name,
        created=int(time.time()),
        fingerprint=services.fingerprint,
        include_usage=include_usage,
    )
    frames = chat_frames(generation, writer, include_usage=include_usage)
    return EventStream(frames, owner=owner, ping_s=services.settings.server.sse_ping_s)


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
