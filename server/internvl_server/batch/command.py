"""The `batch` command: its progress bar and its exit code."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any, BinaryIO

from tqdm import tqdm

from internvl_server.batch.client import app_client, remote_client
from internvl_server.batch.lines import BatchError, BatchLine, read_lines
from internvl_server.batch.results import ResultFile, open_results
from internvl_server.batch.runner import BatchRunner
from internvl_server.settings import Settings
from internvl_server.telemetry.logging import configure_logs

__all__ = ["run_batch"]

# For the members of a line besides its body.
_MAX_HEAD_BYTES = 65_536


def run_batch(settings: Settings, options: argparse.Namespace) -> int:
    """Work through the file.

    Returns:
        0 when every line has succeeded, now or in an earlier run; 1 when one has not; 128 plus the number
        of the signal when one stopped the run.

    Raises:
        BatchError: The files or options cannot be used.
        OSError: A file cannot be read or written.
        StartupError: The server cannot start.
    """
    own_server = ("model.path", "engine.kind")  # the settings of --model and --engine
    if options.url is not None and any(hasattr(options, key) for key in own_server):
        raise BatchError("--model and --engine cannot be combined with --url")
    max_line_bytes = settings.limits.max_body_bytes + _MAX_HEAD_BYTES
    with options.input.open("rb") as file:
        if options.output.exists() and options.output.samefile(options.input):
            raise BatchError("the output must be another file than the input")
        ids = _read_ids(file, max_line_bytes)
        file.seek(0)
        lines = read_lines(file, max_line_bytes)
        with open_results(options.output) as results:
            return _run(settings, options, ids, lines, results)


def _read_ids(file: BinaryIO, max_line_bytes: int) -> set[str]:
    ids: set[str] = set()
    for line in read_lines(file, max_line_bytes):
        if line.custom_id in ids:
            raise BatchError(
                f"line {line.number} has the custom_id of an earlier one: {line.custom_id[:64]!r}"
            )
        ids.add(line.custom_id)
    return ids


def _run(
    settings: Settings,
    options: argparse.Namespace,
    ids: set[str],
    lines: Iterator[BatchLine],
    results: ResultFile,
) -> int:
    # Access lines would overwrite the progress bar.
    configure_logs("warning" if settings.log.level == "info" else settings.log.level)
    remaining = ids - results.outcomes.keys()
    num_before = len(ids) - len(remaining)
    todo = (line for line in lines if line.custom_id in remaining)
    stopped_by = None
    with tqdm(
        total=len(ids), initial=num_before, unit="request", disable=not sys.stderr.isatty()
    ) as bar:
        if remaining:
            try:
                stopped_by = asyncio.run(
                    _send(settings, options, todo, partial(_record, results, bar, count(1)))
                )
            except KeyboardInterrupt:  # before the first request, while the model is loaded
                stopped_by = signal.SIGINT
    outcomes = [results.outcomes[custom_id] for custom_id in ids & results.outcomes.keys()]
    num_succeeded = sum(outcomes)
    print(  # noqa: T201 - the summary of the command
        f"internvl-server: {num_succeeded} succeeded, {len(outcomes) - num_succeeded} failed, "
        f"{len(ids) - len(outcomes)} left; {num_before} were done before",
        file=sys.stderr,
    )
    return int(num_succeeded < len(ids)) if stopped_by is None else 128 + stopped_by


def _record(
    results: ResultFile, bar: "tqdm[Any]", failures: Iterator[int], result: dict[str, Any]
) -> None:
    if not results.write(result):
        bar.set_postfix(failed=next(failures), refresh=False)
    bar.update()


async def _send(
    settings: Settings,
    options: argparse.Namespace,
    lines: Iterator[BatchLine],
    write: Callable[[dict[str, Any]], None],
) -> signal.Signals | None:
    """Send all lines; returns the signal that stopped the run, if any."""
    client = app_client(settings) if options.url is None else remote_client(options.url, settings)
    async with client as connected:
        runner = BatchRunner(
            connected, write, concurrency=options.concurrency, max_retries=options.max_retries
        )
        await runner.run(lines)
        return runner.stopped_by
