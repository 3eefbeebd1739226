"""POST /v1/completions."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from internvl_server.api.body import ignored_header, read_request
from internvl_server.api.disconnect import run_until_disconnect
from internvl_server.api.openapi import json_body
from internvl_server.api.services import Services, ServicesDep
from internvl_server.api.sse import EventStream, data_frames
from internvl_server.core import AnswerParams, SamplingParams, TextDelta
from internvl_server.pipeline import Generation, prepare_prompts
from internvl_server.protocol.chat.render import AnswerHead
from internvl_server.protocol.chat.request import StreamOptions
from internvl_server.protocol.completions.render import CompletionWriter, text_completion
from internvl_server.protocol.completions.request import (
    CompletionRequest,
    ParsedCompletion,
    parse_completion_request,
    to_completion_params,
)
from internvl_server.protocol.dialects import COMPLETIONS
from internvl_server.settings import LimitSettings
from internvl_server.telemetry.request_id import current_request_id

__all__ = ["router"]

router = APIRouter()


@dataclass(frozen=True, slots=True)
class _RunningRequest:
    """What is left of a request once it runs. `shown` stands before the text of each choice."""

    generation: Generation
    head: AnswerHead
    shown: Sequence[str]
    body: CompletionRequest
    headers: dict[str, str]


@router.post(
    "/v1/completions",
    openapi_extra=json_body(CompletionRequest, streams=True),
    response_model=None,
)
async def create_completion(request: Request, services: ServicesDep) -> Response:
    """Continue a text, streaming or not."""
    async with AsyncExitStack() as owner:
        owner.enter_context(services.gate.admit())
        accepted = await _accept(request, services, owner)
        if accepted.body.stream:
            return _stream(accepted, services, owner.pop_all())
        answers = await run_until_disconnect(request, accepted.generation.complete())
        content = text_completion(
            accepted.head, answers, accepted.shown, num_top=accepted.body.logprobs
        )
        return JSONResponse(content, headers=accepted.headers)


def _read(
    body: bytes, limits: LimitSettings, *, ignore_unknown: bool
) -> tuple[ParsedCompletion, tuple[SamplingParams, AnswerParams]]:
    """A valid request, and what it asks in our words."""
    parsed = parse_completion_request(body, limits, ignore_unknown=ignore_unknown)
    return parsed, to_completion_params(parsed.body)


async def _accept(request: Request, services: Services, owner: AsyncExitStack) -> _RunningRequest:
    """Everything that can refuse the request."""
    parsed, (sampling, answer) = await read_request(request, services.settings, _read)
    body = parsed.body
    services.check_model(body.model)
    completion_id = f"cmpl-{current_request_id.get()}"
    work = prepare_prompts(
        services.pipeline, completion_id, parsed.prompts, sampling, answer, owner
    )
    generation = await run_until_disconnect(request, work)
    return _RunningRequest(
        generation=generation,
        head=AnswerHead(
            id=completion_id,
            model=services.checkpoint.served_name,
            created=int(time.time()),
            fingerprint=services.fingerprint,
        ),
        shown=_shown(parsed, services, answer.num_choices),
        body=body.model_copy(update={"prompt": ""}),
        headers=ignored_header(parsed.ignored),
    )


def _shown(parsed: ParsedCompletion, services: Services, num_choices: int) -> list[str]:
    """With `echo`, the prompt of each choice as text."""
    if not parsed.body.echo:
        return [""] * (len(parsed.prompts) * num_choices)
    texts = [
        p if isinstance(p, str) else services.prompt_counter.text_of(p) for p in parsed.prompts
    ]
    return [text for text in texts for _ in range(num_choices)]


def _stream(accepted: _RunningRequest, services: Services, owner: AsyncExitStack) -> Response:
    options = accepted.body.stream_options or StreamOptions()
    writer = CompletionWriter(
        accepted.head,
        num_top=accepted.body.logprobs,
        include_usage=bool(options.include_usage),
        obfuscate=bool(options.include_obfuscation),
    )
    chunks = _chunks(accepted, writer, include_usage=bool(options.include_usage))
    frames = data_frames(chunks, COMPLETIONS)
    response = EventStream(frames, owner=owner, settings=services.settings.server)
    response.headers.update(accepted.headers)
    return response


async def _chunks(
    accepted: _RunningRequest, writer: CompletionWriter, *, include_usage: bool
) -> AsyncIterator[bytes]:
    for index, text in enumerate(accepted.shown):
        if text:
            yield writer.delta(TextDelta(text, index=index))
    async for delta in accepted.generation.deltas():
        yield writer.delta(delta)
        if include_usage and delta.usage is not None:
            yield writer.usage(delta.usage)
