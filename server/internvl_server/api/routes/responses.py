"""POST /v1/responses and /v1/responses/input_tokens."""

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
from internvl_server.api.json_text import json_text
from internvl_server.api.openapi import json_body
from internvl_server.api.services import Services, ServicesDep, ServicesRoute
from internvl_server.pipeline import Generation
from internvl_server.protocol.responses.events import ResponseWriter
from internvl_server.protocol.responses.parse import (
    parse_input_tokens_request,
    parse_responses_request,
)
from internvl_server.protocol.responses.render import (
    ResponseHead,
    echoed_parameters,
    input_tokens_json,
)
from internvl_server.protocol.responses.request import (
    InputTokensRequest,
    ObfuscationOptions,
    ResponsesRequest,
)
from internvl_server.telemetry.request_id import current_request_id

__all__ = ["router"]

router = APIRouter(route_class=ServicesRoute)


@router.post(
    "/v1/responses", openapi_extra=json_body(ResponsesRequest, streams=True), response_model=None
)
async def create_response(request: Request, services: ServicesDep) -> ASGIApp:
    """Answer input items, streaming or not."""
    return await respond(request, services, _accept)


async def _accept(request: Request, services: Services, owner: AsyncExitStack) -> Answer:
    response_id = f"resp_{current_request_id.get()}"
    parser = partial(parse_responses_request, media=services.settings.media)
    parsed, generation = await start_conversation(request, services, parser, response_id, owner)
    options = parsed.body.stream_options or ObfuscationOptions()
    head = ResponseHead(
        id=response_id,
        model=services.checkpoint.served_name,
        created_at=int(time.time()),
        # What an accepted request repeats is no longer than its prompt may be.
        echo=echoed_parameters(parsed.body),
    )
    writer = ResponseWriter(head, json_text, obfuscate=bool(options.include_obfuscation))
    return Answer(
        generation,
        writer,
        whole=partial(_whole, writer, generation),
        headers=notice_headers(parsed.ignored, generation.warnings),
        is_stream=bool(parsed.body.stream),
    )


async def _whole(writer: ResponseWriter, generation: Generation) -> Callable[[], dict[str, Any]]:
    deltas = await generation.whole_deltas()

    def write() -> dict[str, Any]:
        for delta in deltas:
            writer.add(delta)
        return writer.response()

    return write


@router.post("/v1/responses/input_tokens", openapi_extra=json_body(InputTokensRequest))
async def count_response_input(request: Request, services: ServicesDep) -> JSONResponse:
    """Count the tokens of a prompt, from its text and the headers of its images."""
    parser = partial(parse_input_tokens_request, media=services.settings.media)
    return await count_prompt(
        request, services, parser, lambda _, measured: input_tokens_json(measured.usage)
    )
