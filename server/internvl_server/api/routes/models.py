"""GET /v1/models and /v1/models/{id}."""

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter

from internvl_server.api.services import Services, ServicesDep

__all__ = ["router"]

router = APIRouter()


@router.get("/v1/models")
@router.head("/v1/models", include_in_schema=False)
async def list_models(services: ServicesDep) -> dict[str, Any]:
    """The served model, as a list."""
    model = _model(services)
    page = {"has_more": False, "first_id": model["id"], "last_id": model["id"]}
    return {"object": "list", "data": [model], **page}


@router.get("/v1/models/{name:path}")
@router.head("/v1/models/{name:path}", include_in_schema=False)
async def retrieve_model(name: str, services: ServicesDep) -> dict[str, Any]:
    """The served model by its name."""
    services.check_model(name)
    return _model(services)


def _model(services: Services) -> dict[str, Any]:
    """OpenAI's and Anthropic's model objects in one; the last four members are extensions of this server."""
    checkpoint = services.checkpoint
    return {
        "id": checkpoint.served_name,
        "object": "model",
        "created": services.created,
        "owned_by": "internvl-server",
        "type": "model",
        "display_name": checkpoint.served_name,
        "created_at": datetime.fromtimestamp(services.created, UTC).isoformat(),
        "lifecycle": "active",
        "max_input_tokens": services.engine.info.max_model_len,
        "max_model_len": services.engine.info.max_model_len,
        "input_modalities": ["text", "image", "video"],
        "num_tokens_per_tile": checkpoint.num_tokens_per_tile,
        "max_tiles": checkpoint.max_tiles,
    }
