"""GET /health (the process need not be started again) and GET /ready (the engine can generate)."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from internvl_server.api.admission import GateState
from internvl_server.api.errors import error_response
from internvl_server.api.services import ServicesDep
from internvl_server.errors import EngineUnavailableError, ShuttingDownError

__all__ = ["router"]

router = APIRouter()


@router.get("/health")
@router.head("/health", include_in_schema=False)
async def health(services: ServicesDep) -> JSONResponse:
    """Report whether the process works: 503 when the engine has hung, so that it should be started again."""
    engine = services.engine.health()
    if not engine.is_alive:
        return error_response(EngineUnavailableError(engine.reason))
    return JSONResponse({"status": "ok"})


@router.get("/ready")
@router.head("/ready", include_in_schema=False)
async def ready(services: ServicesDep) -> JSONResponse:
    """Report whether requests can be served.

    503 while loading, draining, when the engine stalls, or when processes that decode images do not start.
    """
    if services.gate.state is not GateState.OPEN:
        return error_response(ShuttingDownError())
    engine = services.engine.health()
    if not engine.is_ready:
        return error_response(EngineUnavailableError(engine.reason))
    if problem := next(
        filter(None, (pool.problem for pool in services.media.pools().values())), ""
    ):
        return error_response(EngineUnavailableError(problem))
    return JSONResponse({"status": "ready"})
