"""GET / and GET /v1: what this server is."""

from typing import Any

from fastapi import APIRouter, Request

from internvl_server import __version__

__all__ = ["router"]

router = APIRouter()


@router.get("/")
@router.get("/v1")
@router.head("/", include_in_schema=False)
@router.head("/v1", include_in_schema=False)
async def index(request: Request) -> dict[str, Any]:
    """The server's name, version and endpoints; `/` needs no key."""
    is_described = request.app.state.services.settings.server.openapi
    paths = request.app.openapi()["paths"]
    return {
        "name": "internvl-server",
        "version": __version__,
        **({"openapi": "/openapi.json"} if is_described else {}),
        "endpoints": [f"{method.upper()} {path}" for path in paths for method in paths[path]],
    }
