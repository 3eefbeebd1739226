"""GET /v1/models and /v1/models/{id}."""

from typing import Any

from fastapi import APIRouter

from internvl_server.api.services import Services, ServicesDep

__all__ = ["router"]

router = APIRouter()


@router.get("/v1/models")
@router.head("/v1/models", include_in_schema=False)
async def list_models(services: ServicesDep) -> dict[str, Any]:
    """The served model, as a list."""
    return {"object": "list", "data": [_model(services)]}


@router.get("/v1/models/{name:path}")
@router.head("/v1/models/{name:path}", include_in_schema=False)
async def retrieve_model(name: str, services: ServicesDep) -> dict[str, Any]:
    """The served model by its name."""
    services.check_model(name)
    return _model(services)


def _model(services: Services) -> dict[str, Any]:
    """OpenAI's model object; the last four fields are extensions of this server."""
    checkpoint = services.checkpoint
    return {
        "id": checkpoint.served_name,
        "object": "model",
        "created": services.created,
        "owned_by": "internvl-server",
        "max_model_len": services.engine.info.max_model_len,
        "input_modalities": ["text", "image", "video"],
        "num_tokens_per_tile": checkpoint.num_tokens_per_tile,
        "max_tiles": checkpoint.max_tiles,
    }
