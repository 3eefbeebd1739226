"""POST /v1/chat/completions and /v1/chat/completions/input_tokens."""

import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp

from internvl_server.api.answer import Answer, respond, start_conversation
from internvl_server.api.counting import count_prompt
from internvl_server.api.headers import notice_headers
from internvl_server.api.openapi import json_body
from internvl_server.api.services import Services, ServicesDep, ServicesRoute
from internvl_server.pipeline import Generation, Measurement
from internvl_server.protocol.chat.render import AnswerHead, ChunkWriter, completion
from internvl_server.protocol.chat.request import ChatCompletionRequest, parse_chat_request
from internvl_server.protocol.parsing import ParsedRequest
from internvl_server.protocol.tokenize import input_tokens_json
from internvl_server.protocol.wire import StreamOptions
from internvl_server.telemetry.request_id import current_request_id

__all__ = ["router"]

router = APIRouter(route_class=ServicesRoute)


@router.post(
    "/v1/chat/completions",
    openapi_extra=json_body(ChatCompletionRequest, streams=True),
    response_model=None,
)
async def create_chat_completion(request: Request, services: ServicesDep) -> ASGIApp:
    """Answer a conversation, streaming or not."""
    return await respond(request, services, _accept)


async def _accept(request: Request, services: Services, owner: AsyncExitStack) -> Answer:
    completion_id = f"chatcmpl-{current_request_id.get()}"
    parser = partial(parse_chat_request, media=services.settings.media)
    parsed, generation = await start_conversation(request, services, parser, completion_id, owner)
    body = parsed.body
    options = body.stream_options or StreamOptions()
    head = AnswerHead(
        id=completion_id,
        model=services.checkpoint.served_name,
        created=int(time.time()),
        fingerprint=services.fingerprint,
        service_tier="default" if body.service_tier else None,
        has_logprobs=bool(body.logprobs),
    )
    writer = ChunkWriter(
        head,
        num_choices=generation.num_choices,
        include_usage=bool(options.include_usage),
        usage=generation.usage if options.continuous_usage_stats else None,
        obfuscate=bool(options.include_obfuscation),
    )
    return Answer(
        generation,
        writer,
        whole=partial(_whole, head, generation),
        headers=notice_headers(parsed.ignored, generation.warnings),
        is_stream=bool(body.stream),
    )


async def _whole(head: AnswerHead, generation: Generation) -> Callable[[], dict[str, Any]]:
    return partial(completion, head, await generation.complete())


@router.post("/v1/chat/completions/input_tokens", openapi_extra=json_body(ChatCompletionRequest))
async def count_chat_input(request: Request, services: ServicesDep) -> JSONResponse:
    """Count what a chat request would take, from its text and the headers of its images."""
    parser = partial(parse_chat_request, media=services.settings.media)
    return await count_prompt(request, services, parser, _count_json)


def _count_json(
    parsed: ParsedRequest[ChatCompletionRequest], measured: Measurement
) -> dict[str, Any]:
    return input_tokens_json(
        measured.usage,
        measured.images,
        max_model_len=measured.max_model_len,
        max_tokens=measured.max_tokens,
        fits=measured.fits,
        ignored=parsed.ignored,
    )
