"""POST /v1/completions."""

import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.types import ASGIApp

from internvl_server.api.answer import Answer, respond
from internvl_server.api.body import read_request
from internvl_server.api.disconnect import run_until_disconnect
from internvl_server.api.headers import notice_headers
from internvl_server.api.openapi import json_body
from internvl_server.api.services import Services, ServicesDep, ServicesRoute
from internvl_server.pipeline import Generation
from internvl_server.protocol.chat.render import AnswerHead
from internvl_server.protocol.completions.render import CompletionWriter, text_completion
from internvl_server.protocol.completions.request import (
    CompletionRequest,
    ParsedCompletion,
    parse_completion_request,
)
from internvl_server.protocol.sampling import values_left_out
from internvl_server.protocol.wire import StreamOptions
from internvl_server.telemetry.request_id import current_request_id

__all__ = ["router"]

router = APIRouter(route_class=ServicesRoute)


@router.post(
    "/v1/completions",
    openapi_extra=json_body(CompletionRequest, streams=True),
    response_model=None,
)
async def create_completion(request: Request, services: ServicesDep) -> ASGIApp:
    """Continue a text, streaming or not."""
    return await respond(request, services, _accept)


async def _accept(request: Request, services: Services, owner: AsyncExitStack) -> Answer:
    completion_id = f"cmpl-{current_request_id.get()}"
    parsed = await read_request(request, services.settings, parse_completion_request)
    body = parsed.body
    services.check_model(body.model)
    values = values_left_out(body, services.settings.model.default_sampling)
    sampling = replace(parsed.sampling, **values)
    work = services.pipeline.prepare_raw(
        completion_id, parsed.prompts, sampling, parsed.answer, owner
    )
    generation = await run_until_disconnect(request, work)
    options = body.stream_options or StreamOptions()
    head = AnswerHead(
        id=completion_id,
        model=services.checkpoint.served_name,
        created=int(time.time()),
        fingerprint=services.fingerprint,
    )
    shown = _shown(parsed, services)
    writer = CompletionWriter(
        head,
        shown=shown,
        num_top=body.logprobs,
        include_usage=bool(options.include_usage),
        usage=generation.usage if options.continuous_usage_stats else None,
        obfuscate=bool(options.include_obfuscation),
    )
    return Answer(
        generation,
        writer,
        whole=partial(_whole, head, generation, shown, body.logprobs),
        headers=notice_headers(parsed.ignored, generation.warnings),
        is_stream=bool(body.stream),
    )


async def _whole(
    head: AnswerHead, generation: Generation, shown: list[str], num_top: int | None
) -> Callable[[], dict[str, Any]]:
    return partial(text_completion, head, await generation.complete(), shown, num_top)


def _shown(parsed: ParsedCompletion, services: Services) -> list[str]:
    """With `echo`, the prompt of each choice as text."""
    num_choices = parsed.answer.num_choices
    if not parsed.body.echo:
        return [""] * (len(parsed.prompts) * num_choices)
    texts = [
        p if isinstance(p, str) else services.prompt_counter.text_of(p) for p in parsed.prompts
    ]
    return [text for text in texts for _ in range(num_choices)]
