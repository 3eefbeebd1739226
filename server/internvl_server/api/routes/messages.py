"""POST /v1/messages and /v1/messages/count_tokens."""

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
from internvl_server.pipeline import Generation
from internvl_server.protocol.messages.parse import (
    parse_count_tokens_request,
    parse_messages_request,
)
from internvl_server.protocol.messages.render import MessageHead, MessageWriter, count_json
from internvl_server.protocol.messages.request import CountTokensRequest, MessagesRequest
from internvl_server.telemetry.request_id import current_request_id

__all__ = ["router"]

router = APIRouter(route_class=ServicesRoute)


@router.post(
    "/v1/messages", openapi_extra=json_body(MessagesRequest, streams=True), response_model=None
)
async def create_message(request: Request, services: ServicesDep) -> ASGIApp:
    """Answer messages, streaming or not."""
    return await respond(request, services, _accept)


async def _accept(request: Request, services: Services, owner: AsyncExitStack) -> Answer:
    message_id = f"msg_{current_request_id.get()}"
    parser = partial(parse_messages_request, media=services.settings.media)
    parsed, generation = await start_conversation(request, services, parser, message_id, owner)
    head = MessageHead(
        message_id,
        model=services.checkpoint.served_name,
        usage=generation.prompt_usage,
        max_tokens=parsed.body.max_tokens,
    )
    writer = MessageWriter(head)
    return Answer(
        generation,
        writer,
        whole=partial(_whole, writer, generation),
        headers=notice_headers(parsed.ignored, generation.warnings),
        is_stream=bool(parsed.body.stream),
    )


async def _whole(writer: MessageWriter, generation: Generation) -> Callable[[], dict[str, Any]]:
    return partial(writer.whole, await generation.whole_deltas())


@router.post("/v1/messages/count_tokens", openapi_extra=json_body(CountTokensRequest))
async def count_message_tokens(request: Request, services: ServicesDep) -> JSONResponse:
    """Count the tokens of a prompt, from its text and the headers of its images."""
    parser = partial(parse_count_tokens_request, media=services.settings.media)
    return await count_prompt(
        request, services, parser, lambda _, measured: count_json(measured.usage)
    )
