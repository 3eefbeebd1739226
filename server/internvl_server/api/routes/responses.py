"""POST /v1/responses and /v1/responses/input_tokens."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from internvl_server.api.body import ignored_header, read_request
from internvl_server.api.disconnect import run_until_disconnect
from internvl_server.api.errors import client_facing_error
from internvl_server.api.openapi import json_body
from internvl_server.api.services import Services, ServicesDep
from internvl_server.api.sse import EventStream
from internvl_server.pipeline import Generation
from internvl_server.protocol.reading import read_input_tokens_request, read_responses_request
from internvl_server.protocol.responses.events import ResponseWriter
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

router = APIRouter()


@router.post(
    "/v1/responses", openapi_extra=json_body(ResponsesRequest, streams=True), response_model=None
)
async def create_response(request: Request, services: ServicesDep) -> Response:
    """Answer input items, streaming or not."""
    response_id = f"resp_{current_request_id.get()}"
    async with AsyncExitStack() as owner:
        owner.enter_context(services.gate.admit())
        accepted = await _accept(response_id, request, services, owner)
        if accepted.is_stream:
            return _stream(accepted, services, owner.pop_all())
        return await _whole(request, accepted)


@dataclass(frozen=True, slots=True)
class _RunningRequest:
    """What is left of a request once it runs: its body, large with pictures in it, is gone."""

    generation: Generation
    writer: ResponseWriter
    headers: dict[str, str]
    is_stream: bool


@router.post("/v1/responses/input_tokens", openapi_extra=json_body(InputTokensRequest))
async def count_response_input(request: Request, services: ServicesDep) -> JSONResponse:
    """The tokens a prompt would have, from its text and the headers of its pictures."""
    with services.gate.admit():
        asked = await read_request(request, services.settings, read_input_tokens_request)
        if asked.body.model is not None:
            services.check_model(asked.body.model)
        services.pipeline.check(asked.sampling, asked.answer, asked.conversation)
        work = services.prompt_counter.measure(asked.conversation, None)
        measured = await run_until_disconnect(request, work)
        answer = input_tokens_json(measured.usage)
        return JSONResponse(answer, headers=ignored_header(asked.ignored))


async def _accept(
    response_id: str, request: Request, services: Services, owner: AsyncExitStack
) -> _RunningRequest:
    """Everything that can refuse the request."""
    asked = await read_request(request, services.settings, read_responses_request)
    body = asked.body
    services.check_model(body.model)
    work = services.pipeline.prepare(
        response_id, asked.conversation, asked.sampling, asked.answer, owner
    )
    options = body.stream_options or ObfuscationOptions()
    generation = await run_until_disconnect(request, work)
    # Only now: what is repeated of a request that was accepted is no longer than its prompt may be.
    head = ResponseHead(
        id=response_id,
        model=services.checkpoint.served_name,
        created_at=int(time.time()),
        echo=echoed_parameters(body),
    )
    return _RunningRequest(
        generation=generation,
        writer=ResponseWriter(head, obfuscate=bool(options.include_obfuscation)),
        headers=ignored_header(asked.ignored),
        is_stream=bool(body.stream),
    )


def _stream(accepted: _RunningRequest, services: Services, owner: AsyncExitStack) -> Response:
    frames = _frames(accepted.generation, accepted.writer)
    response = EventStream(frames, owner=owner, settings=services.settings.server)
    response.headers.update(accepted.headers)
    return response


async def _frames(generation: Generation, writer: ResponseWriter) -> AsyncIterator[bytes]:
    """The events of one response; a failure is the last of them."""
    for frame in writer.begin():
        yield frame
    try:
        async for delta in generation.deltas():
            for frame in writer.delta(delta):
                yield frame
    except Exception as error:  # noqa: BLE001  (the edge: whatever it is, the client must be told)
        for frame in writer.failed(client_facing_error(error)):
            yield frame


async def _whole(request: Request, accepted: _RunningRequest) -> Response:
    async def take_all() -> None:
        async for delta in accepted.generation.deltas():
            accepted.writer.take(delta)

    await run_until_disconnect(request, take_all())
    return JSONResponse(accepted.writer.response(), headers=accepted.headers)
