"""`server batch`: its options, its progress bar, and what it returns."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from internvl_server.batch.client import BatchClient, app_client, remote_client
from internvl_server.batch.journal import Journal
from internvl_server.batch.ledger import Ledger
from internvl_server.batch.lines import BatchError, BatchLine, read_lines
from internvl_server.batch.output import OutputFile, open_output
from internvl_server.batch.runner import MAX_RETRIES, BatchRunner, RetryRules
from internvl_server.settings import Settings
from internvl_server.telemetry.logging import configure_logs

__all__ = ["add_batch_options", "run_batch"]

# Of a line, besides its body.
_MAX_HEAD_BYTES = 65_536


def add_batch_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `batch`, but for those that name settings."""
    parser.add_argument("input", type=Path, help="JSON lines of custom_id, method, url and body")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="answers; taken up where it ends"
    )
    parser.add_argument(
        "--url", help="ask the server at this address, http://HOST:PORT/v1, instead of running one"
    )
    parser.add_argument(
        "--concurrency", type=_positive, default=16, help="requests at a time (%(default)s)"
    )
    parser.add_argument(
        "--max-retries",
        type=_not_negative,
        default=MAX_RETRIES,
        help="times a request refused with 429 or 503 is sent again (%(default)s)",
    )


def run_batch(settings: Settings, options: argparse.Namespace) -> int:
    """Work through the file.

    Returns:
        0 when every line of it has succeeded, now or in an earlier run; 1 when any has not; 128 and the
        signal's number when stopped by one.

    Raises:
        BatchError: The files or options cannot be used.
        OSError: A file cannot be read or written.
        StartupError: The server cannot start.
    """
    if options.url is not None and (options.model is not None or options.engine is not None):
        raise BatchError("--model and --engine are for a server of its own, not for --url")
    max_line_bytes = settings.limits.max_body_bytes + _MAX_HEAD_BYTES
    with Ledger() as ledger, options.input.open("rb") as file:
        if options.output.exists() and options.output.samefile(options.input):
            raise BatchError("the output must be another file than the input")
        for line in read_lines(file, max_line_bytes):
            if not ledger.add(line.custom_id):
                raise BatchError(
                    f"line {line.number} has the custom_id of an earlier one: {line.custom_id[:64]!r}"
                )
        file.seek(0)
        lines = read_lines(file, max_line_bytes)
        with open_output(options.output, ledger) as output:
            return _run(settings, options, lines, ledger, output)


def _run(
    settings: Settings,
    options: argparse.Namespace,
    lines: Iterator[BatchLine],
    ledger: Ledger,
    output: OutputFile,
) -> int:
    # Access lines would run over the progress bar.
    configure_logs("warning" if settings.log.level == "info" else settings.log.level)
    num_left, num_done, num_failed = ledger.counts()
    num_before = num_done + num_failed
    stopped_by = None
    with tqdm(
        total=num_left + num_before,
        initial=num_before,
        unit="request",
        disable=not sys.stderr.isatty(),
    ) as bar:
        if num_left:
            work = _work(settings, options, lines, Journal(ledger, output, bar))
            stopped_by = _until_stopped(work)
    num_left, num_done, num_failed = ledger.counts()
    _say(
        f"{num_done} succeeded, {num_failed} failed, {num_left} left; {num_before} were done before"
    )
    return int(num_left + num_failed > 0) if stopped_by is None else 128 + stopped_by


def _until_stopped(work: Coroutine[Any, Any, signal.Signals | None]) -> signal.Signals | None:
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:  # before the first request: while the model is loaded
        return signal.SIGINT


async def _work(
    settings: Settings, options: argparse.Namespace, lines: Iterator[BatchLine], journal: Journal
) -> signal.Signals | None:
    """Do what is to do; the signal that stopped it, if any."""
    async with _client(settings, options.url) as client:
        runner = BatchRunner(
            client,
            journal,
            concurrency=options.concurrency,
            rules=RetryRules(max_retries=options.max_retries),
        )
        await runner.run(lines)
        return runner.stopped_by


def _client(settings: Settings, url: str | None) -> AbstractAsyncContextManager[BatchClient]:
    return app_client(settings) if url is None else remote_client(url, settings)


def _positive(text: str) -> int:
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("it must be at least 1")
    return value


def _not_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("it must be at least 0")
    return value


def _say(message: str) -> None:
    print(f"internvl-server: {message}", file=sys.stderr)  # noqa: T201  (its purpose)
