"""The server as an application of Ray Serve: the same app in replicas, on one machine or on many.

A Serve config file names `internvl_server.ray_app:build` as its `import_path`; see `server/docs/ray.md`. Ray
starts replicas, spreads requests, and replaces replicas that are not well; engine, limits and API are the
server's. Needs the extra `ray`.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from internvl_server.api.services import Services
from internvl_server.app import create_app
from internvl_server.errors import StartupError
from internvl_server.routing.affinity import AffinityMiddleware
from internvl_server.settings import Settings
from internvl_server.settings.loading import find_config, load_settings
from internvl_server.telemetry.logging import configure_logs

__all__ = ["Replica", "affinity_middlewares", "build"]

_POLL_S = 0.1
_ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
# The header by which that router knows requests that belong together.
_SESSION_HEADER = b"x-session-id"


class Replica:
    """One server in one actor. Ray calls its methods.

    Args:
        config: Path or name of a configuration file; None for none.
        overrides: Settings by section, which take precedence over the file and the environment.
    """

    def __init__(self, config: str | None, overrides: Mapping[str, Any]) -> None:
        self._settings = _settings(config, overrides)
        self._is_ready = asyncio.Event()
        self._failure: StartupError | None = None
        self._services: Services

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Build the app, whose lifespan Ray manages."""
        configure_logs(self._settings.log.level, self._settings.log.format)
        app = create_app(self._settings, on_fatal=self._fail, on_ready=self._is_ready.set)
        self._services = app.state.services
        return _named(app, serve.get_replica_context().replica_id.unique_id)

    async def check_health(self) -> None:
        """Raise an exception if the replica should be replaced. Before the start it waits for the engine.

        Raises:
            StartupError: The engine cannot start, or has hung or ended.
        """
        await self._is_ready.wait()
        if self._failure is not None:
            raise self._failure
        health = self._services.engine.health()
        if not health.is_alive:
            raise StartupError(health.reason)

    def _fail(self, error: StartupError) -> None:
        self._failure = error
        self._is_ready.set()


def build(args: Mapping[str, Any]) -> Application:
    """Build the application from the `args` of a Serve config file.

    Args:
        args: `config`, the path or name of a configuration file; `settings`, settings by section; `replicas`,
            their number, 1 by default, or a list of the least and the most, between which it follows the
            load; `affinity`, whether requests with the same key go to the same replica while it has room,
            false by default.

    Raises:
        ValueError: Another argument is given, or a setting is wrong.
    """
    unknown = args.keys() - {"config", "settings", "replicas", "affinity"}
    if unknown:
        raise ValueError(f"Unknown arguments: {', '.join(sorted(unknown))}.")
    config, overrides = args.get("config"), args.get("settings") or {}
    options = _options(_settings(config, overrides), args.get("replicas", 1))
    if args.get("affinity"):
        options["request_router_config"] = RequestRouterConfig(request_router_class=_ROUTER)
    deployment = serve.deployment(serve.ingress()(Replica)).options(**options)
    return deployment.bind(config, overrides)


def _named(app: ASGIApp, replica_id: str) -> ASGIApp:
    """The app with the replica's id in its answers, and without the header of the id that Ray adds itself."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-replica-id"] = replica_id
                del headers["x-request-id"]
            await send(message)

        await app(scope, receive, send_named)

    return call


def affinity_middlewares() -> list[Middleware]:
    """What Ray's proxies do first, if `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` names it: find the key."""
    return [Middleware(AffinityMiddleware, header=_SESSION_HEADER)]


def _settings(config: str | None, overrides: Mapping[str, Any]) -> Settings:
    path: Path | None = find_config(config) if config else None
    return load_settings(path, {name: dict(section) for name, section in overrides.items()})


def _options(settings: Settings, replicas: int | Sequence[int]) -> dict[str, Any]:
    """How Ray runs replicas, unless the config file says otherwise."""
    engine = settings.engine
    num_gpus = engine.turbomind.tp if engine.kind == "turbomind" else 0
    return {
        "name": "internvl-server",
        "ray_actor_options": {"num_gpus": num_gpus, "num_cpus": 1 if num_gpus else 2},
        # What is more waits in Ray, where other replicas can take it.
        "max_ongoing_requests": engine.max_num_seqs + max(1, engine.max_num_seqs // 2),
        **_scaling(replicas, target=max(1, engine.max_num_seqs * 3 // 4)),
        "health_check_period_s": 10,
        "health_check_timeout_s": 30,
        "graceful_shutdown_wait_loop_s": 1,
        "graceful_shutdown_timeout_s": settings.server.drain_s,
    }


def _scaling(replicas: int | Sequence[int], target: int) -> dict[str, Any]:
    """A number of replicas, or that between two bounds with which each has a target number of requests."""
    if isinstance(replicas, int):
        return {"num_replicas": replicas}
    least, most = replicas
    bounds = {"min_replicas": least, "max_replicas": most}
    return {"autoscaling_config": {**bounds, "target_ongoing_requests": target}}
