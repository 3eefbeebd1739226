"""GET / and GET /v1: what this server is. Browsers get the playground at `/`."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from internvl_server import __version__
from internvl_server.api.routes.playground import Playground, wants_page
from internvl_server.concurrency.offload import offload

__all__ = ["router"]

router = APIRouter()


@router.get("/", response_model=None)
@router.head("/", include_in_schema=False, response_model=None)
async def root(request: Request) -> Response:
    """The server's name, version and endpoints, or the playground for browsers. Needs no key."""
    page: Playground | None = request.app.state.playground
    if page is not None and wants_page(request.headers.get("accept", "")):
        return page.answer(request)
    return JSONResponse(await _describe(request), headers={"vary": "accept"})


@router.get("/v1")
@router.head("/v1", include_in_schema=False)
async def index(request: Request) -> dict[str, Any]:
    """The server's name, version and endpoints."""
    return await _describe(request)


async def _describe(request: Request) -> dict[str, Any]:
    is_described = request.app.state.services.settings.server.openapi
    paths = (await offload(request.app.openapi))["paths"]  # 0.1 s the first time
    return {
        "name": "internvl-server",
        "version": __version__,
        **({"openapi": "/openapi.json"} if is_described else {}),
        "endpoints": [f"{method.upper()} {path}" for path in paths for method in paths[path]],
    }
