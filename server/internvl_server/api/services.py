"""The app of the routes, and their collaborators: wired once in `app.py` and kept on the app's state."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from internvl_server.api.admission import AdmissionGate
from internvl_server.api.errors import response_to
from internvl_server.api.middleware.keys import KeyRing
from internvl_server.checkpoint.files import Checkpoint
from internvl_server.engine.base import Engine
from internvl_server.errors import ModelNotFoundError
from internvl_server.media.preparer import MediaPreparer
from internvl_server.pipeline import Budgets, Pipeline, PromptCounter
from internvl_server.settings import Settings
from internvl_server.startup_check import StartupCheck

__all__ = ["Application", "Services", "ServicesDep", "ServicesRoute"]


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

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request on the route's path."""
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)  # which refuses it
            return
        response = await self._response(Request(scope, receive, send))
        await response(scope, receive, send)

    async def _response(self, request: Request) -> ASGIApp:
        """The answer, which may be that to an error: then no handler around the answer has to stay."""
        try:
            response: ASGIApp = await self.endpoint(request, request.app.state.services)
        except Exception as error:  # noqa: BLE001  (a defect is raised again)
            return await response_to(error, request)
        return response


ServicesDep = Annotated[Services, Depends(_services)]


class Application(FastAPI):
    """FastAPI with fewer layers around its routes, all of which a stream would keep until its end.

    `RequestContextMiddleware` answers a defect, the server traces requests itself, and nothing that a
    `ServicesRoute` needs is closed by FastAPI.
    """

    def build_middleware_stack(self) -> ASGIApp:
        """The middleware that was added, around the routes."""
        app: ASGIApp = _Routes(self)
        for cls, args, kwargs in reversed(self.user_middleware):
            app = cls(app, *args, **kwargs)
        return app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if self.middleware_stack is None or scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        scope["app"] = self
        await self.middleware_stack(scope, receive, send)


class _Routes:
    """Finds a `ServicesRoute` by its path; what belongs to FastAPI's other routes is around these alone."""

    def __init__(self, app: FastAPI) -> None:
        routes = [route for route in app.router.routes if isinstance(route, ServicesRoute)]
        self._routes = {(method, r.path): r for r in routes for method in r.methods or ()}
        self._others = ExceptionMiddleware(
            AsyncExitStackMiddleware(app.router), handlers=app.exception_handlers
        )

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        route = self._routes.get((scope.get("method", ""), scope.get("path", "")))
        if route is None:
            return self._others(scope, receive, send)
        scope["route"] = route
        return route.handle(scope, receive, send)
