"""GET /version: versions, and the results of the start-up check."""

from typing import Any

from fastapi import APIRouter

from internvl_server import __version__
from internvl_server.api.services import ServicesDep

__all__ = ["router"]

router = APIRouter()


@router.get("/version")
async def version(services: ServicesDep) -> dict[str, Any]:
    """Versions, and the results of the check that the server passed when it started."""
    check = services.startup_check
    return {
        "version": __version__,
        "engine": services.engine.info.backend,
        "model": services.checkpoint.served_name,
        "template": services.checkpoint.template,
        "resize": services.media.resize,
        "system_fingerprint": services.fingerprint,
        "self_check": {
            "ok": True,
            "template_hash": check.template_hash,
            "tokenizer_hash": check.tokenizer_hash,
            "tiles": {"hash": check.tiles_hash, "num_sizes": check.num_grids},
        },
    }
