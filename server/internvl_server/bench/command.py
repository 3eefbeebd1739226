"""The `bench` command: what it sends, its progress bar, its table and its files."""

import argparse
import asyncio
import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from tqdm import tqdm

from internvl_server import __version__
from internvl_server.bench.client import Client, open_http
from internvl_server.bench.datasets.base import DatasetError, Prompt
from internvl_server.bench.datasets.build import make_prompts
from internvl_server.bench.datasets.counting import TokenCounter, counter_for
from internvl_server.bench.measures import Outcome, Record, figures
from internvl_server.bench.plot import draw
from internvl_server.bench.report import details, table
from internvl_server.bench.runner import Load, Run, run_load
from internvl_server.bench.strain import Strain
from internvl_server.bench.wire import ENDPOINTS
from internvl_server.errors import StartupError
from internvl_server.settings.loading import client_api_key
from internvl_server.settings.options import without_credentials

__all__ = ["bench"]

_DEFAULT_URL = "http://127.0.0.1:8000"
_DEFAULT_PROMPTS = 1000
_BAD_REQUEST = 400
_MAX_MESSAGE = 500
_INTERRUPTED = 130


@dataclass(frozen=True)
class _Bench:
    """A run that has ended, with what a file says about it."""

    run: Run
    result: dict[str, Any]


def bench(options: argparse.Namespace) -> int:
    """Send a load and print the figures.

    Returns the exit code: 0 if a request was answered, 1 if none was, 130 if a signal ended the run.

    Raises:
        DatasetError, OSError: The options or files cannot be used.
        StartupError: The server cannot be reached, or refuses the first request.
    """
    if options.URL and options.base_url:
        raise DatasetError("Name the server either as URL or with --base-url, not with both.")
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        done = runner.run(_bench(options))
    print(table(done.result, options.percentile_metrics, options.metric_percentiles))
    _print_notes(done)
    _write(done, options)
    if done.run.is_interrupted:
        return _INTERRUPTED
    return 0 if done.result["completed"] else 1


async def _bench(options: argparse.Namespace) -> _Bench:
    base_url = options.URL or options.base_url or _DEFAULT_URL
    key = client_api_key(options.api_key)
    headers = dict(options.header) | ({"Authorization": f"Bearer {key}"} if key else {})
    async with open_http(base_url, headers, verify=not options.insecure) as http:
        model = options.model or await _first_model(http)
        counter = await counter_for(options.tokenizer, http, model)
        number = _num_prompts(options)
        # The first request and warm-ups have prompts that are not measured, which caches would know.
        prompts = await make_prompts(options, number + 1 + options.num_warmups, counter)
        client = Client(
            http, ENDPOINTS[options.endpoint], model,
            ({"ignore_eos": True} if options.ignore_eos else {}) | options.extra_body,
            stream=options.stream, keeps_text=options.save_detailed,
        )  # fmt: skip
        await _try(client, prompts[number])
        await _warm_up(client, prompts[number + 1 :])
        run = await _run(client, prompts[:number], options)
    return _Bench(run, _result(run, options, model, counter, base_url))


async def _first_model(http: httpx2.AsyncClient) -> str:
    try:
        response = await http.get("/v1/models")
        response.raise_for_status()
    except httpx2.HTTPStatusError as err:
        url, text = without_credentials(err.request.url), err.response.text[:_MAX_MESSAGE]
        raise StartupError(f"{url}: status {err.response.status_code}: {text}") from err
    except httpx2.HTTPError as err:
        raise StartupError(f"No answer from {without_credentials(http.base_url)}: {err}.") from err
    try:
        return str(response.json()["data"][0]["id"])
    except (ValueError, LookupError, TypeError) as err:
        url = without_credentials(response.url)
        raise StartupError(f"{url} lists no model. Name one with --model.") from err


def _num_prompts(options: argparse.Namespace) -> int:
    """As many as asked for, or as an open loop sends in its duration."""
    if options.num_prompts is not None:
        return int(options.num_prompts)
    if math.isinf(options.duration) or math.isinf(options.request_rate):
        return _DEFAULT_PROMPTS
    return max(1, int(options.duration * options.request_rate))


async def _try(client: Client, prompt: Prompt) -> None:
    """Send one request before the others. A server that refuses `ignore_eos` is asked without it.

    Raises:
        StartupError: It fails.
    """
    try:
        client.encode(prompt)
    except ValueError as err:
        raise DatasetError(str(err)) from err
    record = await _send_one(client, prompt)
    if record.status == _BAD_REQUEST and client.fields.get("ignore_eos"):
        refused = client.fields.pop("ignore_eos")
        record = await _send_one(client, prompt)
        if record.outcome == Outcome.COMPLETED:
            _note("The server refuses ignore_eos, so that answers may be shorter than asked for.")
            return
        client.fields["ignore_eos"] = refused
    if record.outcome != Outcome.COMPLETED:
        status = f"status {record.status}, " if record.status else ""
        raise StartupError(f"The first request failed: {status}{record.code}: {record.message}")


async def _send_one(client: Client, prompt: Prompt) -> Record:
    record = Record(time.perf_counter(), 0.0)
    await client.send(prompt, record)
    return record


async def _warm_up(client: Client, prompts: Sequence[Prompt]) -> None:
    await asyncio.gather(*(_send_one(client, prompt) for prompt in prompts))


async def _run(client: Client, prompts: Sequence[Prompt], options: argparse.Namespace) -> Run:
    load = Load(
        options.request_rate,
        options.burstiness,
        options.max_concurrency,
        options.duration,
        options.seed,
    )
    quiet = True if options.disable_tqdm else None  # None: only a terminal gets a bar
    with tqdm(total=len(prompts), unit="request", disable=quiet) as bar:
        return await run_load(client.send, prompts, load, on_end=bar.update)


def _result(
    run: Run, options: argparse.Namespace, model: str, counter: TokenCounter, base_url: str
) -> dict[str, Any]:
    """The members of a result file, with the names of `vllm bench serve` where it has them."""
    from_arrival = options.latency_from == "arrival"
    found = {
        "date": time.strftime("%Y%m%d-%H%M%S", time.gmtime()),
        "bench_version": __version__,
        "label": options.label,
        "backend": "openai",
        "endpoint_type": options.endpoint,
        "base_url": without_credentials(base_url),
        "model_id": model,
        "tokenizer_id": counter.name,
        "input_lengths_are_exact": counter.is_exact,
        "dataset_name": options.dataset_name,
        "num_prompts": len(run.records),
        "request_rate": _finite(options.request_rate),
        "burstiness": _finite(options.burstiness),
        "max_concurrency": options.max_concurrency,
        "latency_from": options.latency_from,
        "seed": options.seed,
        "is_interrupted": run.is_interrupted,
        **dict(options.metadata),
        **figures(
            run.records, run.duration_s, percentiles=options.metric_percentiles,
            goodput_ms=dict(options.goodput), from_arrival=from_arrival,
        ),
        **run.strain,
    }  # fmt: skip
    return found | (details(run.records, run.started_s) if options.save_detailed else {})


def _print_notes(done: _Bench) -> None:
    """What the reader must know to use the figures, on stderr."""
    result = done.result
    if result["completed"] and result["output_tokens_from"] != "usage":
        _note(
            "The server reported no usage: output tokens are chunks of answers, of one token or more."
        )
    if result["dataset_name"] != "custom" and not result["input_lengths_are_exact"]:
        _note("Nothing counts tokens here: lengths of prompts are estimates. Use --tokenizer.")
    if warning := Strain.warning(done.run.strain):
        _note(warning)
    failed = [record for record in done.run.records if record.outcome == Outcome.FAILED]
    for message in sorted(
        {f"{record.status} {record.code}: {record.message}" for record in failed}
    )[:5]:
        _note(f"failed: {message}")
    if done.run.is_interrupted:
        _note("interrupted: the figures are those of the requests that had been answered")


def _write(done: _Bench, options: argparse.Namespace) -> None:
    """Write the result file and the plot, if asked for."""
    if path := _result_path(done.result, options):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(done.result, indent=1) + "\n", encoding="utf-8")
        _note(f"wrote {path}")
    if options.plot is not None:
        title = options.label or f"{done.result['model_id']} at {done.result['base_url']}"
        svg = draw(done.run.records, done.run.started_s, title)
        options.plot.write_text(svg, encoding="utf-8")
        _note(f"wrote {options.plot}")


def _result_path(result: dict[str, Any], options: argparse.Namespace) -> Path | None:
    if not (options.save_result or options.result_filename or options.result_dir):
        return None
    name: Path | None = options.result_filename
    if name is None:
        model = str(result["model_id"]).split("/")[-1]
        name = Path(
            f"{options.label or 'openai'}-{options.request_rate}qps-{model}-{result['date']}.json"
        )
    return name if options.result_dir is None else Path(options.result_dir, name)


def _finite(value: float) -> float | str:
    """JSON has no infinity."""
    return value if math.isfinite(value) else "inf"


def _note(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(f"internvl-server: {text}", file=sys.stderr)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Of uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
