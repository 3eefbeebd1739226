"""POST /tokenize and /detokenize."""

from collections.abc import Sequence
from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from internvl_server.api.admission import within_deadline
from internvl_server.api.body import read_request
from internvl_server.api.disconnect import run_until_disconnect
from internvl_server.api.headers import notice_headers
from internvl_server.api.json_text import json_text
from internvl_server.api.openapi import json_body
from internvl_server.api.services import Services, ServicesDep, ServicesRoute
from internvl_server.concurrency.offload import MAX_TOKEN_IDS, offload
from internvl_server.protocol.dialects import CHAT, COMPLETIONS
from internvl_server.protocol.tokenize import (
    DetokenizeRequest,
    ParsedTokenize,
    TokenizeRequest,
    parse_detokenize_request,
    parse_tokenize_request,
    tokens_json,
)

__all__ = ["router"]

router = APIRouter(route_class=ServicesRoute)


@router.post("/tokenize", openapi_extra=json_body(TokenizeRequest))
async def tokenize(request: Request, services: ServicesDep) -> Response:
    """The token ids of a text, or of a conversation as it would be answered, images included."""
    with services.gate.admit(request):
        parser = partial(parse_tokenize_request, media=services.settings.media)
        async with within_deadline():
            parsed = await read_request(request, services.settings, parser)
            _check_model(parsed.options.model, services)
            request.state.dialect = COMPLETIONS if parsed.conversation is None else CHAT
            tokens = await run_until_disconnect(request, _tokens(parsed, services))
        render = partial(
            _render, tokens, services, with_strs=bool(parsed.options.return_token_strs)
        )
        answer = await offload(render, size=len(tokens), limit=MAX_TOKEN_IDS)
        headers = notice_headers(parsed.ignored)
        return Response(answer, headers=headers, media_type="application/json")


def _render(tokens: Sequence[int], services: Services, *, with_strs: bool) -> bytes:
    token_strs = services.prompt_counter.token_strs(tokens) if with_strs else None
    max_model_len = services.engine.info.max_model_len
    return json_text(tokens_json(tokens, token_strs, max_model_len=max_model_len))


async def _tokens(parsed: ParsedTokenize, services: Services) -> tuple[int, ...]:
    if parsed.conversation is None:
        tokens = await services.prompt_counter.text_tokens(parsed.text)
    else:
        tokens = await services.prompt_counter.tokens(parsed.conversation)
    if parsed.options.add_special_tokens is None:
        return tokens
    if parsed.options.add_special_tokens:
        return services.prompt_counter.with_special_tokens(tokens)
    return services.prompt_counter.without_special_tokens(tokens)


@router.post("/detokenize", openapi_extra=json_body(DetokenizeRequest))
async def detokenize(request: Request, services: ServicesDep) -> JSONResponse:
    """The text of token ids, with special tokens by name."""
    with services.gate.admit(request):
        max_tokens = services.engine.info.max_model_len
        parser = partial(parse_detokenize_request, max_tokens=max_tokens)
        async with within_deadline():
            parsed = await read_request(request, services.settings, parser)
        _check_model(parsed.body.model, services)
        tokens = parsed.body.tokens
        to_text = partial(services.prompt_counter.text_of, tokens)
        text = await offload(to_text, size=len(tokens), limit=MAX_TOKEN_IDS)
        return JSONResponse({"prompt": text}, headers=notice_headers(parsed.ignored))


def _check_model(name: str | None, services: Services) -> None:
    """Check the model if the request names one."""
    if name is not None:
        services.check_model(name)
