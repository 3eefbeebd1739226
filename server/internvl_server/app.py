"""The composition root: builds the objects, wires them into an app and manages their lifecycle."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from prometheus_client import CollectorRegistry

from internvl_server import __version__
from internvl_server.api.admission import AdmissionGate, GateState
from internvl_server.api.errors import ERROR_HANDLERS
from internvl_server.api.headers import IGNORED_HEADER, WARNINGS_HEADER
from internvl_server.api.metrics import route as metrics
from internvl_server.api.metrics.collector import LiveCollector
from internvl_server.api.middleware.auth import AuthMiddleware
from internvl_server.api.middleware.keys import KeyRing
from internvl_server.api.middleware.request_context import RequestContextMiddleware
from internvl_server.api.openapi import install_openapi
from internvl_server.api.routes import (
    chat,
    completions,
    health,
    index,
    messages,
    models,
    playground,
    responses,
    tokens,
    version,
)
from internvl_server.api.services import Application, Services
from internvl_server.checkpoint.files import load_checkpoint, load_config
from internvl_server.engine.base import Engine
from internvl_server.engine.loader import check_backend, choose_engine, load_engine, unused_settings
from internvl_server.errors import StartupError
from internvl_server.media.preparer import MediaPreparer
from internvl_server.pipeline import Budgets, Lengths, Pipeline, PromptCounter
from internvl_server.planner.check import check_settings
from internvl_server.planner.gpus import GpuMemory
from internvl_server.planner.support import check_served
from internvl_server.prompt.builder import PromptBuilder, select_template
from internvl_server.prompt.thinking import ThinkingMode
from internvl_server.prompt.tokenizer import load_tokenizer
from internvl_server.protocol.dialects import MESSAGES
from internvl_server.settings import Settings
from internvl_server.startup_check import fingerprint_of, run_startup_check
from internvl_server.telemetry.observer import Observer, Observers
from internvl_server.telemetry.prometheus import PrometheusObserver

__all__ = ["create_app"]

_log = logging.getLogger(__name__)

# How often the engine is asked whether it has stalled.
_WATCH_S = 0.5


def create_app(
    settings: Settings,
    engine: Engine | None = None,
    *,
    on_fatal: Callable[[StartupError], None] | None = None,
    on_ready: Callable[[], None] | None = None,
) -> FastAPI:
    """Build the app that serves one checkpoint. Reads the checkpoint's small files, but no weights.

    Args:
        settings: All sections.
        engine: Used instead of the engine the settings name.
        on_fatal: Called when the engine cannot start after the socket has opened.
        on_ready: Called when it has started.

    Raises:
        StartupError: The checkpoint cannot be served.
    """
    check_served(settings.model.path)
    keys, settings = _taken_keys(settings)
    gpus: tuple[GpuMemory, ...] = ()
    if engine is None:
        settings = _with_engine(settings)
        gpus = check_backend(settings.engine)
    if gpus and check_settings(settings, gpus) is None:
        # Before the weights are downloaded. The sizes of published models are known without a download.
        check_settings(settings, gpus, load_config(settings.model))
    checkpoint = load_checkpoint(settings.model)
    if gpus:
        check_settings(settings, gpus, checkpoint.config)
    tokenizer = load_tokenizer(checkpoint.path)
    template = select_template(checkpoint, tokenizer)
    check = run_startup_check(template, tokenizer)
    engine = engine or load_engine(settings.engine, checkpoint, tokenizer.vocabulary)
    settings = _with_room_for_texts(settings, engine.info.max_model_len)
    media = MediaPreparer(
        settings.media,
        tile_px=checkpoint.tile_px,
        auto_max_tiles=checkpoint.max_tiles,
        num_tokens_per_tile=checkpoint.num_tokens_per_tile,
        pixel_type=lambda: engine.info.pixel_type,
    )
    builder = PromptBuilder(
        checkpoint,
        tokenizer,
        template,
        max_model_len=engine.info.max_model_len,
        thinking=ThinkingMode.of(
            settings.model.thinking, has_tokens=tokenizer.think_ids is not None
        ),
    )
    lengths = Lengths(engine.info, settings.limits)
    info = engine.info
    budgets = Budgets(settings.limits, num_slots=info.max_num_seqs, pixel_type=info.pixel_type)
    pipeline = Pipeline(
        media=media,
        builder=builder,
        engine=engine,
        vocabulary=tokenizer.vocabulary,
        lengths=lengths,
        budgets=budgets,
    )
    services = Services(
        settings=settings,
        keys=keys,
        checkpoint=checkpoint,
        engine=engine,
        media=media,
        pipeline=pipeline,
        prompt_counter=PromptCounter(
            media=media, builder=builder, tokenizer=tokenizer, lengths=lengths, budgets=budgets
        ),
        gate=AdmissionGate(budgets),
        budgets=budgets,
        startup_check=check,
        fingerprint=fingerprint_of(check, __version__, checkpoint.config_hash),
        registry=CollectorRegistry(),
        created=int(time.time()),
    )
    observer = _observer(services)
    app = Application(
        title="InternVL server",
        version=__version__,
        lifespan=_lifespan(services, observer, on_fatal, on_ready),
        openapi_url=None,  # `install_openapi` adds it
        docs_url=None,
        redoc_url=None,
        exception_handlers=ERROR_HANDLERS,
        redirect_slashes=False,  # a redirect would be built from the client's Host header
    )
    app.state.services = services
    _install(app, settings, keys, observer)
    return app


def _observer(services: Services) -> Observers:
    """What is told about requests, with a registry that reads the rest."""
    services.registry.register(LiveCollector(services))
    observers: list[Observer] = [PrometheusObserver(services.registry)]
    if services.settings.server.tracing:
        observers.append(_tracing(services.checkpoint.served_name))
    return Observers(observers)


def _tracing(model: str) -> Observer:
    try:
        from internvl_server.telemetry.tracing import TracingObserver  # noqa: PLC0415  (optional)
    except ImportError as err:
        raise StartupError(
            "server.tracing needs the OpenTelemetry packages. Install internvl-server[otel]."
        ) from err
    return TracingObserver(model)


def _taken_keys(settings: Settings) -> tuple[KeyRing, Settings]:
    """The accepted keys, as digests, and the settings without their texts."""
    keys = KeyRing(settings.server)
    server = settings.server.model_copy(update={"api_keys": (), "named_keys": ()})
    return keys, settings.model_copy(update={"server": server})


def _with_engine(settings: Settings) -> Settings:
    """Choose the engine, and log which one and why."""
    engine, reason = choose_engine(settings)
    _log.info("%s", reason)
    if unused := sorted(unused_settings(engine)):
        _log.warning("the %s engine does not use %s", engine.kind, ", ".join(unused))
    return settings.model_copy(update={"engine": engine})


def _with_room_for_texts(settings: Settings, max_model_len: int) -> Settings:
    """Allow a body as much punctuation as a text of the context's length may have."""
    limits = settings.limits
    num_values = max(limits.max_json_values, 4 * max_model_len)
    limits = limits.model_copy(update={"max_json_values": num_values})
    return settings.model_copy(update={"limits": limits})


def _install(app: FastAPI, settings: Settings, keys: KeyRing, observer: Observer) -> None:
    install_openapi(app, is_served=settings.server.openapi)
    for module in (chat, completions, messages, responses, tokens, models, version, health, index):
        # Their own routes: an included router would be searched twice for each request.
        app.router.routes += module.router.routes
    app.state.playground = playground.Playground() if settings.server.playground else None
    if settings.server.playground:
        app.router.routes += playground.router.routes
    if settings.server.metrics and not settings.server.metrics_port:
        app.router.routes += metrics.router.routes
    app.add_middleware(AuthMiddleware, keys=keys)
    app.add_middleware(
        RequestContextMiddleware, observer=observer, shows_times=settings.server.server_timing
    )
    if settings.server.allowed_origins:
        # The outermost: preflight requests carry no key, and errors need its headers too.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.server.allowed_origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],
            expose_headers=[
                IGNORED_HEADER,
                WARNINGS_HEADER,
                *MESSAGES.id_headers,
                "x-should-retry",
                "retry-after",
                "server-timing",
                "traceresponse",
            ],
        )


def _lifespan(
    services: Services,
    observer: Observer,
    on_fatal: Callable[[StartupError], None] | None,
    on_ready: Callable[[], None] | None = None,
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as running:
            running.callback(observer.close)
            running.push_async_callback(services.engine.close)
            running.push_async_callback(services.media.close)
            running.push_async_callback(services.pipeline.close)
            # In the background, so that the socket opens at once and /health answers while weights load.
            starting = asyncio.create_task(_start(services, on_fatal, on_ready))
            running.callback(starting.cancel)
            watching = asyncio.create_task(_watch(services, observer))
            running.callback(watching.cancel)
            yield
            services.gate.state = GateState.DRAINING

    return lifespan


async def _watch(services: Services, observer: Observer) -> None:
    """End the requests of an engine that has stalled, and measure how late the event loop is."""
    while True:
        started = time.monotonic()
        await asyncio.sleep(_WATCH_S)
        observer.loop_lagged(max(time.monotonic() - started - _WATCH_S, 0.0))
        services.pipeline.meter.fold()
        services.pipeline.end_stalled(services.settings.engine.stall_timeout_s)


async def _start(
    services: Services,
    on_fatal: Callable[[StartupError], None] | None,
    on_ready: Callable[[], None] | None = None,
) -> None:
    started = time.monotonic()
    try:
        async with asyncio.TaskGroup() as group:  # a failure of one stops the other
            group.create_task(services.engine.start())
            group.create_task(services.media.start())
    except* Exception as group_error:  # noqa: BLE001 - the process must not wait for ever
        error = _startup_error(group_error.exceptions[0])
        if on_fatal is not None:
            on_fatal(error)
    else:
        if services.gate.state is GateState.STARTING:  # no signal has come meanwhile
            services.gate.state = GateState.OPEN
        if on_ready is not None:
            on_ready()
        _log.info("ready after %.1f s", time.monotonic() - started)


def _startup_error(cause: Exception) -> StartupError:
    """Log the reason the server cannot start, with a traceback unless it is a `StartupError`."""
    if isinstance(cause, StartupError):
        _log.critical("cannot start: %s", cause.message)
        return cause
    error = StartupError(f"Starting failed: {cause!r}")
    _log.critical("cannot start: %s", error.message, exc_info=cause)
    return error
