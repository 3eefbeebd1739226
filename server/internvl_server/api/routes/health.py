"""GET /health (the process need not be started again) and GET /ready (the engine can generate)."""

import time

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from internvl_server.api.admission import GateState
from internvl_server.api.errors import error_response
from internvl_server.api.services import Services, ServicesDep
from internvl_server.errors import EngineUnavailableError, ShuttingDownError

__all__ = ["router"]

router = APIRouter()

# Until then what prevents the start of processes, such as a lack of memory, may pass.
_BROKEN_S = 90.0


@router.get("/health")
@router.head("/health", include_in_schema=False)
async def health(services: ServicesDep) -> JSONResponse:
    """Report whether the process works.

    503 when it should be started again: the engine has hung or ended, or processes that decode images have
    not started for long.
    """
    engine = services.engine.health()
    if not engine.is_alive:
        return error_response(EngineUnavailableError(engine.reason))
    pools = services.media.pools().values()
    if any(pool.problem and time.monotonic() - pool.problem_since > _BROKEN_S for pool in pools):
        return error_response(EngineUnavailableError(_problem(services)))
    return JSONResponse({"status": "ok"})


@router.get("/ready")
@router.head("/ready", include_in_schema=False)
async def ready(services: ServicesDep) -> JSONResponse:
    """Report whether requests can be served.

    503 while loading, draining, when the engine stalls, or when processes that decode images do not start.
    """
    state = services.gate.state
    if state not in (GateState.STARTING, GateState.OPEN):
        return error_response(ShuttingDownError())
    engine = services.engine.health()
    if not engine.is_ready:
        return error_response(EngineUnavailableError(engine.reason))
    if state is GateState.STARTING:
        return error_response(EngineUnavailableError("The server is starting."))
    if problem := _problem(services):
        return error_response(EngineUnavailableError(problem))
    return JSONResponse({"status": "ready"})


def _problem(services: Services) -> str:
    """Why processes cannot be started, if they cannot."""
    return next(filter(None, (pool.problem for pool in services.media.pools().values())), "")
