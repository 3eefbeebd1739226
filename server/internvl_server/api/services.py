"""The collaborators of the routes: wired once in `app.py` and kept on the app's state."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry

from internvl_server.api.admission import AdmissionGate
from internvl_server.api.middleware.keys import KeyRing
from internvl_server.checkpoint.files import Checkpoint
from internvl_server.engine.base import Engine
from internvl_server.errors import ModelNotFoundError
from internvl_server.media.preparer import MediaPreparer
from internvl_server.pipeline import Budgets, Pipeline, PromptCounter
from internvl_server.settings import Settings
from internvl_server.startup_check import StartupCheck

__all__ = ["Services", "ServicesDep", "ServicesRoute"]


@dataclass(frozen=True, slots=True)
class Services:
    """The collaborators of the routes. `created` is the start of the process in Unix seconds."""

    settings: Settings
    keys: KeyRing
    checkpoint: Checkpoint
    engine: Engine
    media: MediaPreparer
    pipeline: Pipeline
    prompt_counter: PromptCounter
    gate: AdmissionGate
    budgets: Budgets
    startup_check: StartupCheck
    fingerprint: str
    registry: CollectorRegistry
    created: int

    def check_model(self, name: str) -> None:
        """Check that a request names the served model.

        Raises:
            ModelNotFoundError: It names another; the message has the served name.
        """
        served = self.checkpoint.served_name
        if name != served and not self.settings.model.accept_any_name:
            raise ModelNotFoundError(
                f"The model '{name[:128]}' does not exist here; this server has '{served}'.",
                param="model",
            )


async def _services(request: Request) -> Services:  # FastAPI runs plain functions on a thread
    services: Services = request.app.state.services
    return services


class ServicesRoute(APIRoute):
    """A route whose function takes the request and the services, and returns the response.

    It is called without FastAPI's search for what else it may depend on, which takes longer than the call.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""

        async def handle(request: Request) -> Response:
            response: Response = await self.endpoint(request, request.app.state.services)
            return response

        return handle


ServicesDep = Annotated[Services, Depends(_services)]
