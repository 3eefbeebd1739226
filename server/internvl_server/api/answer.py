"""Answers an accepted request, whole or as a stream, and releases what it holds in either case."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

from fastapi import Request
from fastapi.responses import Response
from starlette.types import ASGIApp

from internvl_server.api.admission import within_deadline
from internvl_server.api.body import BodyParser, read_request
from internvl_server.api.disconnect import run_until_disconnect
from internvl_server.api.json_text import json_text
from internvl_server.api.services import Services
from internvl_server.api.streaming.response import EventStream, StreamWriter
from internvl_server.concurrency.offload import MAX_ANSWER_TOKENS, offload
from internvl_server.pipeline import Generation
from internvl_server.protocol.chat.request import ChatCompletionRequest
from internvl_server.protocol.messages.request import MessagesRequest
from internvl_server.protocol.parsing import ParsedRequest
from internvl_server.protocol.responses.request import ResponsesRequest
from internvl_server.protocol.sampling import values_left_out

__all__ = ["Answer", "respond", "start_conversation"]

Body = TypeVar("Body", ChatCompletionRequest, MessagesRequest, ResponsesRequest)


@dataclass(frozen=True, slots=True)
class Answer:
    """A running request. Its body, which is large when it has images, is not kept.

    `whole` waits for the whole answer and returns what makes its JSON, which may take long.
    """

    generation: Generation
    writer: StreamWriter
    whole: Callable[[], Coroutine[Any, Any, Callable[[], dict[str, Any]]]]
    headers: Mapping[str, str]
    is_stream: bool


Accept: TypeAlias = Callable[[Request, Services, AsyncExitStack], Awaitable[Answer]]


async def respond(request: Request, services: Services, accept: Accept) -> ASGIApp:
    """Answer a request.

    Args:
        request: The HTTP request.
        services: The server's collaborators.
        accept: Does everything that can refuse the request. The stack it gets owns the admission and
            the engine's request.
    """
    async with AsyncExitStack() as owner:
        admission = owner.enter_context(services.gate.admit(request, to_engine=True))
        services.pipeline.check_ready()
        async with within_deadline():
            answer = await accept(request, services, owner)
        admission.shrink_body(0)  # the answer does not keep it
        request.state.generation = answer.generation  # for the access log
        if not answer.is_stream:
            make = await run_until_disconnect(request, answer.whole())
            num_tokens = answer.generation.usage().num_completion_tokens
            text = await offload(
                lambda: json_text(make()), size=num_tokens, limit=MAX_ANSWER_TOKENS
            )
            return Response(text, headers=dict(answer.headers), media_type="application/json")
        response = EventStream(
            answer.generation,
            answer.writer,
            headers=answer.headers,
            settings=services.settings.server,
        )
        response.take_over(owner)
        return response


async def start_conversation(
    request: Request,
    services: Services,
    parser: BodyParser[ParsedRequest[Body]],
    request_id: str,
    owner: AsyncExitStack,
) -> tuple[ParsedRequest[Body], Generation]:
    """Parse the request, prepare its conversation and hand it to the engine.

    Args:
        request: The HTTP request, whose body has not been read.
        services: The server's collaborators.
        parser: Parses the body.
        request_id: Key of the request across stages.
        owner: Closing it aborts the generation and frees what it holds.

    Raises:
        ServerError: The request is refused.
        ClientGoneError: The client left.
    """
    parsed = await read_request(request, services.settings, parser)
    services.check_model(parsed.body.model)
    values = values_left_out(parsed.body, services.settings.model.default_sampling)
    parsed = replace(
        parsed,
        body=parsed.body.model_copy(update=values),
        sampling=replace(parsed.sampling, **values),
    )
    work = services.pipeline.prepare(
        request_id, parsed.conversation, parsed.sampling, parsed.answer, owner
    )
    return parsed, await run_until_disconnect(request, work)
