"""The `batch` command: its server or connection, its progress bar and its exit code."""

import argparse
import asyncio
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from typing import Any

import httpx2
from tqdm import tqdm

from internvl_server.app import create_app
from internvl_server.batch.files import BatchError, ResultFile, open_results, read_lines
from internvl_server.batch.runner import BatchRunner
from internvl_server.batch.traced import TracedTransport
from internvl_server.concurrency.confinement.process import forbid_looking
from internvl_server.errors import StartupError
from internvl_server.settings import Settings
from internvl_server.telemetry.logging import configure_logs

__all__ = ["run_batch"]

_MAX_HEAD_BYTES = 65_536  # for the members of a line besides its body
_CONNECT_TIMEOUT_S = 10.0
_POLL_S = 0.05


def run_batch(settings: Settings, options: argparse.Namespace) -> int:
    """Answer a file and return the exit code.

    It is 0 when every line has succeeded, now or in an earlier run; 1 when one has not; 128 plus the number
    of the signal when one stopped the run.

    Raises:
        BatchError, OSError: The files or options cannot be used.
        StartupError: The server cannot start.
    """
    forbid_looking()
    own_server = ("model.path", "engine.kind")  # the settings of --model and --engine
    if options.url is not None and any(hasattr(options, key) for key in own_server):
        raise BatchError("--model and --engine cannot be combined with --url")
    if options.output.exists() and options.output.samefile(options.input):
        raise BatchError("the output must be another file than the input")
    limits = settings.limits
    max_line_bytes = limits.max_body_bytes + _MAX_HEAD_BYTES
    read = partial(read_lines, options.input, max_line_bytes, limits.max_json_values)
    ids = {line["custom_id"] for line in read()}
    with open_results(options.output) as results:
        remaining = ids - results.outcomes.keys()
        num_before = len(ids) - len(remaining)
        todo = (line for line in read() if line["custom_id"] in remaining)
        # Access lines would overwrite the progress bar.
        configure_logs("warning" if settings.log.level == "info" else settings.log.level)
        with tqdm(total=len(ids), initial=num_before, unit="request", disable=None) as bar:
            stopped_by = None
            try:
                if remaining:
                    stopped_by = asyncio.run(_send(settings, options, todo, results, bar))
            except KeyboardInterrupt:  # before the first request, while the model is loaded
                stopped_by = signal.SIGINT
    counts = Counter(results.outcomes.get(custom_id) for custom_id in ids)
    print(  # noqa: T201 - the summary of the command
        f"internvl-server: {counts[True]} succeeded, {counts[False]} failed, {counts[None]} left; "
        f"{num_before} were done before",
        file=sys.stderr,
    )
    return int(counts[True] < len(ids)) if stopped_by is None else 128 + stopped_by


async def _send(
    settings: Settings,
    options: argparse.Namespace,
    lines: Iterator[dict[str, Any]],
    results: ResultFile,
    bar: "tqdm[Any]",
) -> signal.Signals | None:
    failures = count(1)

    def record(result: dict[str, Any]) -> None:
        if not results.write(result):
            bar.set_postfix(failed=next(failures), refresh=False)
        bar.update()

    client = _app_client(settings) if options.url is None else _client(settings, options.url)
    async with client as connected:
        runner = BatchRunner(connected, record, options.max_retries)
        return await runner.run(lines, options.concurrency)


@asynccontextmanager
async def _app_client(settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of an app in this process, without a socket, once the app is ready."""
    failures: list[StartupError] = []
    app = create_app(_without_keys(settings), on_fatal=failures.append)
    async with (
        app.router.lifespan_context(app),
        _client(settings, "http://batch", httpx2.ASGITransport(app)) as client,
    ):
        while not (await client.get("/ready")).is_success:
            if failures:
                raise failures[0]
            await asyncio.sleep(_POLL_S)
        yield client


def _without_keys(settings: Settings) -> Settings:
    server = settings.server.model_copy(
        update={"api_keys": (), "named_keys": (), "keys_file": None}
    )
    return settings.model_copy(update={"server": server})


def _client(
    settings: Settings, url: str, transport: httpx2.AsyncBaseTransport | None = None
) -> httpx2.AsyncClient:
    headers = {"Content-Type": "application/json"}
    if settings.server.api_keys:
        headers["Authorization"] = f"Bearer {settings.server.api_keys[0].get_secret_value()}"
    if transport is None and settings.server.tracing:  # an app in this process traces itself
        # The runner bounds the number of connections.
        transport = TracedTransport(
            httpx2.AsyncHTTPTransport(limits=httpx2.Limits(), trust_env=False)
        )
    return httpx2.AsyncClient(
        transport=transport,
        base_url=url,
        headers=headers,
        timeout=httpx2.Timeout(None, connect=_CONNECT_TIMEOUT_S),  # an answer may take any time
        limits=httpx2.Limits(),  # the runner bounds the number of connections
        trust_env=False,
    )
