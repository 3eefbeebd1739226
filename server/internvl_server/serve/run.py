"""Serves an app on a socket with uvicorn: what must be right before it starts, and the start line."""

import errno
import gc
import logging
import os
import resource
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import cast

import uvicorn
from prometheus_client import CollectorRegistry, start_http_server

from internvl_server.api.services import Services
from internvl_server.app import create_app
from internvl_server.concurrency.confinement.process import forbid_looking
from internvl_server.errors import StartupError
from internvl_server.serve.connection import Connection
from internvl_server.serve.draining import DrainingServer
from internvl_server.serve.memory import limit_arenas, return_large_blocks
from internvl_server.serve.room import AwaitedHeads
from internvl_server.settings import ServerSettings, Settings
from internvl_server.telemetry.logging import configure_logs

__all__ = ["connections_of", "serve"]

_log = logging.getLogger(__name__)


def serve(settings: Settings) -> int:
    """Serve until a signal arrives, and return the exit code.

    Raises:
        StartupError: The server cannot start; says why and what to change.
    """
    configure_logs(settings.log.level, settings.log.format)
    limit_arenas()
    forbid_looking()
    _allow_files(settings.limits.num_files)
    if problem := settings.server.exposure_problem():
        raise StartupError(problem)
    failures: list[StartupError] = []

    def on_fatal(error: StartupError) -> None:
        failures.append(error)
        server.should_exit = True

    # Threads with Python code give way to the event loop after this time, 5 ms by default.
    sys.setswitchinterval(0.001)
    app = create_app(settings, on_fatal=on_fatal, on_ready=_spare_the_collector)
    gc.enable()  # the command line disables it while modules are imported
    if app.state.services.engine.info.backend != "cpu":
        return_large_blocks()
    config = uvicorn.Config(
        app,
        host=settings.server.host,
        backlog=settings.server.backlog,
        port=settings.server.port,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        http=cast(type[Connection], connections_of(settings)),
        ws="none",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_keep_alive=settings.server.keep_alive_s,
    )
    server = DrainingServer(config, app.state.services)
    listener = _bind(config)
    _announce(app.state.services, *listener.getsockname()[:2])
    with _metrics_served(settings.server, app.state.services.registry):
        server.run(sockets=[listener])
    _leave_threads(exit_code=1 if failures else 0)
    for failure in failures:
        raise failure
    return 0


@contextmanager
def _metrics_served(settings: ServerSettings, registry: CollectorRegistry) -> Iterator[None]:
    """Serve the metrics on a separate port, if there is one, on a thread."""
    if not (settings.metrics and settings.metrics_port):
        yield
        return
    try:
        server, thread = start_http_server(settings.metrics_port, settings.metrics_host, registry)
    except OSError as err:
        raise StartupError(
            f"Cannot listen on server.metrics_host {settings.metrics_host}, server.metrics_port "
            f"{settings.metrics_port}: {err.strerror}."
        ) from err
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _leave_threads(exit_code: int) -> None:
    """End the process here if a thread is left, such as one that loads weights and cannot be stopped.

    The interpreter would take its modules away while native code runs, which then often aborts.
    """
    if any(thread.daemon for thread in threading.enumerate()):
        logging.shutdown()
        os._exit(exit_code)


def _spare_the_collector() -> None:
    """Keep the garbage collector from visiting, again and again, what lives as long as the process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def connections_of(settings: Settings) -> Callable[..., Connection]:
    """What makes the connections of one server."""
    heads = AwaitedHeads(fair_share=settings.limits.max_connections // 4)
    return partial(Connection, settings=settings, awaited_heads=heads)


def _allow_files(needed: int) -> None:
    """Raise the limit of open files so far that it is not reached before that of connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        _log.warning(
            "the system allows %d open files (ulimit -n), fewer than limits.max_connections may need",
            allowed,
        )


def _bind(config: uvicorn.Config) -> socket.socket:
    try:
        listener = config.bind_socket()
    except SystemExit as err:  # raised by uvicorn for an error of the system
        reason = err.__context__
        change = "Choose another address of this machine with --host, or another port with --port."
        if isinstance(reason, OSError) and reason.errno == errno.EADDRINUSE:
            change = "Is another server running there? Choose another port with --port, or 0 for a free one."
        raise StartupError(
            f"Cannot listen on server.host {config.host}, server.port {config.port}: "
            f"{getattr(reason, 'strerror', reason)}. {change}"
        ) from err
    # uvloop's child processes would have it too, and the port be taken until the last of them ends.
    listener.set_inheritable(False)
    return listener


def _announce(services: Services, host: str, port: int) -> None:
    shown = f"[{host}]" if ":" in host else host
    _log.info(
        "%s (%s engine, template %s) on http://%s:%d/v1 - loading",
        services.checkpoint.served_name,
        services.engine.info.backend,
        services.checkpoint.template,
        shown,
        port,
    )
