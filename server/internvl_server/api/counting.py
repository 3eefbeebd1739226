"""Answers requests that only count the tokens of a prompt, from its text and the headers of its images."""

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse

from internvl_server.api.admission import within_deadline
from internvl_server.api.body import BodyParser, read_request
from internvl_server.api.disconnect import run_until_disconnect
from internvl_server.api.headers import notice_headers
from internvl_server.api.services import Services
from internvl_server.pipeline import Measurement
from internvl_server.protocol.chat.request import ChatCompletionRequest
from internvl_server.protocol.messages.request import CountTokensRequest
from internvl_server.protocol.parsing import ParsedRequest
from internvl_server.protocol.responses.request import InputTokensRequest

__all__ = ["count_prompt"]

Body = TypeVar("Body", bound=ChatCompletionRequest | CountTokensRequest | InputTokensRequest)


async def count_prompt(
    request: Request,
    services: Services,
    parser: BodyParser[ParsedRequest[Body]],
    to_json: Callable[[ParsedRequest[Body], Measurement], dict[str, Any]],
) -> JSONResponse:
    """Count the tokens of a request's prompt. Raises as `start_conversation` does.

    Args:
        request: The HTTP request, whose body has not been read.
        services: The server's collaborators.
        parser: Parses the body.
        to_json: Makes the answer's JSON.
    """
    with services.gate.admit(request):
        async with within_deadline():
            parsed = await read_request(request, services.settings, parser)
            if parsed.body.model is not None:
                services.check_model(parsed.body.model)
            _, warnings = services.pipeline.resolve_sampling(
                parsed.sampling, parsed.answer, parsed.conversation
            )
            work = services.prompt_counter.measure(parsed.conversation, parsed.sampling)
            measured = await run_until_disconnect(request, work)
        headers = notice_headers(parsed.ignored, (*warnings, *measured.warnings))
        return JSONResponse(to_json(parsed, measured), headers=headers)
