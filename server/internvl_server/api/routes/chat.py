"""POST /v1/chat/completions."""

import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from internvl_server.api.body import ignored_header, read_request
from internvl_server.api.disconnect import run_until_disconnect
from internvl_server.api.openapi import json_body
from internvl_server.api.services import Services, ServicesDep
from internvl_server.api.sse import EventStream, chat_frames
from internvl_server.pipeline import Generation
from internvl_server.protocol.chat.render import AnswerHead, ChunkWriter, completion
from internvl_server.protocol.chat.request import ChatCompletionRequest, StreamOptions
from internvl_server.protocol.reading import read_chat_request
from internvl_server.telemetry.request_id import current_request_id

__all__ = ["router"]

router = APIRouter()


@router.post(
    "/v1/chat/completions",
    openapi_extra=json_body(ChatCompletionRequest, streams=True),
    response_model=None,
)
async def create_chat_completion(request: Request, services: ServicesDep) -> Response:
    """Answer a conversation, streaming or not."""
    completion_id = f"chatcmpl-{current_request_id.get()}"
    async with AsyncExitStack() as owner:
        owner.enter_context(services.gate.admit())
        accepted = await _accept(completion_id, request, services, owner)
        if accepted.is_stream:
            return _stream(accepted, services, owner.pop_all())
        return await _whole(request, accepted)


@dataclass(frozen=True, slots=True)
class _RunningRequest:
    """What is left of a request once it runs: its body, large with pictures in it, is gone."""

    generation: Generation
    head: AnswerHead
    headers: dict[str, str]
    is_stream: bool
    include_usage: bool
    obfuscate: bool


async def _accept(
    completion_id: str, request: Request, services: Services, owner: AsyncExitStack
) -> _RunningRequest:
    """Everything that can refuse the request."""
    reader = partial(read_chat_request, media=services.settings.media)
    asked = await read_request(request, services.settings, reader)
    body = asked.body
    services.check_model(body.model)
    work = services.pipeline.prepare(
        completion_id, asked.conversation, asked.sampling, asked.answer, owner
    )
    options = body.stream_options or StreamOptions()
    return _RunningRequest(
        generation=await run_until_disconnect(request, work),
        head=AnswerHead(
            id=completion_id,
            model=services.checkpoint.served_name,
            created=int(time.time()),
            fingerprint=services.fingerprint,
            service_tier="default" if body.service_tier else None,
            has_logprobs=bool(body.logprobs),
        ),
        headers=ignored_header(asked.ignored),
        is_stream=bool(body.stream),
        include_usage=bool(options.include_usage),
        obfuscate=bool(options.include_obfuscation),
    )


def _stream(accepted: _RunningRequest, services: Services, owner: AsyncExitStack) -> Response:
    writer = ChunkWriter(
        accepted.head, include_usage=accepted.include_usage, obfuscate=accepted.obfuscate
    )
    frames = chat_frames(accepted.generation, writer, include_usage=accepted.include_usage)
    response = EventStream(frames, owner=owner, settings=services.settings.server)
    response.headers.update(accepted.headers)
    return response


async def _whole(request: Request, accepted: _RunningRequest) -> Response:
    answers = await run_until_disconnect(request, accepted.generation.complete())
    return JSONResponse(completion(accepted.head, answers), headers=accepted.headers)
