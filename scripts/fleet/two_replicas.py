"""Two real replicas under the load of the simulator, asked over HTTP.

With the CPU engine and the demo model a known beginning saves time. The echo engine only waits for each
token, so that its times hardly depend on what else the machine does, and knows no beginnings.

First the costs of a request are measured on one of them alone. Then every policy sends the same requests at
the same times to both, and the simulator computes the same run from these costs.
"""

import asyncio
import base64
import contextlib
import io
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from internvl_server.bench.client import Client, open_http
from internvl_server.bench.datasets.base import Prompt
from internvl_server.bench.measures import Outcome, Record, tpot_s
from internvl_server.bench.wire import ENDPOINTS
from PIL import Image

from scripts.fleet.replica import Costs, Job
from scripts.fleet.routing import POLICIES, Policy
from scripts.fleet.simulation import Workload, simulate, summary
from scripts.load.figures import markdown_table
from scripts.load.servers import ServerProcess, python

__all__ = ["compare"]

NUM_REPLICAS = 2
_PLACES = {"cpu": 64, "echo": 4}
_STEP_S = 0.02  # of the echo engine
TTFT_S = 1.0
_MODEL = Path(__file__).parents[2] / "server/internvl_server/demo_model"
_SYSTEM = "You are looking at blocks. Answer briefly. " * 8
_IMAGE_TOKENS = 64  # a request that knew fewer had to compute its picture
_SIDE = 448
_ROWS = {
    "throughput": "requests/s",
    "hit_rate": "cache hits",
    "ttft_p50_s": "first token, p50 (s)",
    "ttft_p99_s": "first token, p99 (s)",
    "e2e_p50_s": "answer, p50 (s)",
    "e2e_p99_s": "answer, p99 (s)",
}


class _Picture:
    """A picture of random colours, which are the same for all turns of a conversation."""

    type = "image_url"

    def __init__(self, key: str) -> None:
        rng = np.random.default_rng(int.from_bytes(key.encode(), "big"))
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        small.resize((_SIDE, _SIDE)).save(buffer, "PNG")
        self.url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _prompt(key: str, number: int, num_tokens: int) -> Prompt:
    """One turn: the conversation's system text and picture, and a question with the turn's number."""
    text = f"question {number % 10}{number // 10 % 10}{number // 100 % 10}?"
    system = f"{key} {_SYSTEM}"
    return Prompt(text, system, [_Picture(key)], max_tokens=num_tokens)


async def compare(engine: str, workload: Workload, load: float, work: Path) -> str:
    """A table of measured and simulated figures.

    Args:
        engine: "cpu" or "echo".
        workload: Its rate is replaced.
        load: The rate, as a share of what two replicas serve that know no picture.
        work: For the logs.
    """
    work.mkdir(parents=True, exist_ok=True)
    command = python(
        "internvl_server", "serve", "--model", str(_MODEL), "--engine", engine, "--port", "{port}",
        "--set", f"engine.max_num_seqs={_PLACES[engine]}", "--set", f"engine.echo.token_delay_s={_STEP_S}",
        "--log-level", "warning",
    )  # fmt: skip
    servers = [ServerProcess(command, work / f"replica-{at}.log") for at in range(NUM_REPLICAS)]
    try:
        for server in servers:
            await server.wait_ready()
        async with contextlib.AsyncExitStack() as stack:
            urls = [f"http://127.0.0.1:{server.port}" for server in servers]
            https = [await stack.enter_async_context(open_http(url, {})) for url in urls]
            name = (await https[0].get("/v1/models")).json()["data"][0]["id"]
            fields = {"ignore_eos": True}
            clients = [Client(http, ENDPOINTS["chat"], name, fields) for http in https]
            for client in clients:
                await _warm_up(client)
            return await _compare(clients, await _COSTS[engine](clients[0]), workload, load)
    finally:
        for server in servers:
            server.stop()


async def _compare(clients: Sequence[Client], costs: Costs, workload: Workload, load: float) -> str:
    steps = workload.mean_tokens - 1 + costs.first_steps
    # A step takes the engine's time, or only one of its places.
    step_s = costs.step_s if costs.prefill_miss_s else costs.step_s / costs.places
    full_s = costs.prefill_miss_s + steps * (step_s + costs.step_request_s)
    workload = replace(workload, rate=load * NUM_REPLICAS / full_s)
    columns = []
    for policy_name, make in POLICIES.items():
        measured, _ = workload.jobs()
        await drive(measured, clients, make(NUM_REPLICAS), policy_name)
        simulated, _ = workload.jobs()
        simulate(simulated, NUM_REPLICAS, costs, make(NUM_REPLICAS))
        columns += [summary(jobs, ttft_s=TTFT_S) for jobs in (measured, simulated)]
    rows = [
        [label, *(figures[key] for figures in columns)]
        for key, label in _ROWS.items()
        if key != "hit_rate" or costs.prefill_miss_s
    ]
    head = [f"{name}, {kind}" for name in POLICIES for kind in ("measured", "simulated")]
    facts = [
        f"{workload.rate:.1f} requests/s",
        f"prepared in {costs.prepare_miss_s * 1000:.1f} ms",
        f"first token after {costs.prefill_miss_s * 1000:.1f} ms",
        f"with a known beginning {costs.prefill_hit_s * 1000:.1f} ms",
        f"a token {costs.step_s * 1000:.2f} ms",
        f"and {costs.step_request_s * 1000:.2f} ms for each running request",
    ]
    return f"{', '.join(facts)}\n\n{markdown_table(['', *head], rows)}"


async def _warm_up(client: Client) -> None:
    await asyncio.gather(*(_send(client, _prompt(f"warm/{at}", at, 16)) for at in range(16)))


async def _cpu_costs(client: Client) -> Costs:
    """Costs of an otherwise idle replica that computes, medians."""
    misses, hits = [], []
    for at in range(16):
        misses.append(_first_s(await _send(client, _prompt(f"cost/{at}", 0, 1))))
        hits.append(_first_s(await _send(client, _prompt(f"cost/{at}", 1, 1))))
    alone, together = await _steps_s(client, 1), await _steps_s(client, 8)
    each_s = max(0.0, (together - alone) / 7)
    return Costs(
        prefill_hit_s=statistics.median(hits),
        prefill_miss_s=statistics.median(misses),
        step_s=max(1e-6, alone - each_s),
        step_request_s=each_s,
        places=_PLACES["cpu"],
    )


async def _echo_costs(client: Client) -> Costs:
    """Costs of a replica that waits before each token."""
    firsts = [_first_s(await _send(client, _prompt(f"cost/{at}", 0, 1))) for at in range(16)]
    step_s = await _steps_s(client, _PLACES["echo"])
    prepare_s = max(0.0, statistics.median(firsts) - step_s)
    return Costs(
        prepare_hit_s=prepare_s, prepare_miss_s=prepare_s, cores=64, first_steps=1, step_s=step_s,
        places=_PLACES["echo"],
    )  # fmt: skip


async def _steps_s(client: Client, num_requests: int) -> float:
    """Time of a step while so many requests run, median."""
    found = []
    for _ in range(5):
        prompts = [_prompt(f"cost/{at}", 3, 33) for at in range(num_requests)]
        records = await asyncio.gather(*(_send(client, prompt) for prompt in prompts))
        found += [tpot_s(record) or 0.0 for record in records]
    return statistics.median(found)


_COSTS = {"cpu": _cpu_costs, "echo": _echo_costs}


async def drive(jobs: Sequence[Job], clients: Sequence[Client], policy: Policy, salt: str) -> None:
    """Send jobs at their times; what became of each is noted in it, in seconds from the start."""
    outstanding = [0] * len(clients)
    prompts = [_prompt(f"{salt}/{job.key}", at, job.num_tokens) for at, job in enumerate(jobs)]
    start = time.perf_counter() + 0.2

    async def send(job: Job, prompt: Prompt) -> None:
        outstanding[job.replica] += 1
        try:
            record = await _send(clients[job.replica], prompt)
        finally:
            outstanding[job.replica] -= 1
        job.first_s, job.ended_s = record.chunk_s[0] - start, record.ended_s - start
        job.is_hit = (record.cached_tokens or 0) >= _IMAGE_TOKENS

    async with asyncio.TaskGroup() as group:
        for job, prompt in zip(jobs, prompts, strict=True):
            if (wait_s := start + job.arrival_s - time.perf_counter()) > 0:
                await asyncio.sleep(wait_s)
            job.replica = policy.choose(job.key, outstanding)
            group.create_task(send(job, prompt))


async def _send(client: Client, prompt: Prompt) -> Record:
    record = Record(time.perf_counter(), 0.0)
    await client.send(prompt, record)
    if record.outcome != Outcome.COMPLETED or not record.chunk_s:
        sys.exit(f"a request failed: {record.status} {record.code} {record.message}")
    return record


def _first_s(record: Record) -> float:
    return record.chunk_s[0] - record.sent_s
