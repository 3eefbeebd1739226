"""GET /metrics: the server's figures for Prometheus."""

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client.exposition import choose_encoder

from internvl_server.api.services import ServicesDep

__all__ = ["router"]

router = APIRouter()


@router.get("/metrics", response_class=Response)
async def metrics(request: Request, services: ServicesDep) -> Response:
    """All figures, in Prometheus' text format or in OpenMetrics, as `Accept` asks. Needs no key."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    text = await asyncio.to_thread(encode, services.registry)
    return Response(text, headers={"content-type": content_type})
