"""Try a checkpoint on this machine's NVIDIA GPUs, with one GPU and with all, and print one table.

    scripts/gpu-smoke /models/InternVL3-2B-hf
    scripts/gpu-smoke --random          # no weights at hand: a 1B-shaped checkpoint of random numbers
    scripts/gpu-smoke /models/InternVL3-8B-hf --set engine.turbomind.quant_policy=8

The size of the cache and of a prefill step are those of the memory plan, for the memory that is free now.
Each run starts the server as users do (`internvl-server serve --engine turbomind`), asks the parity
prompts greedily, twice, and compares them with transformers; then log probabilities, a schema, a tool call,
`min_tokens`, `ignore_eos`, two choices and the prefix cache; then 64 mixed streams at a time, 300
streams left early, and the 64 streams again, and SIGTERM. It exits with 1 when anything fails.
"""

import argparse
import asyncio
import contextlib
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import openai
from internvl_server.checkpoint.config import CheckpointConfig
from internvl_server.checkpoint.files import load_checkpoint
from internvl_server.engine.turbomind.machine import check_machine, count_gpus
from internvl_server.errors import StartupError
from internvl_server.planner.check import fitting_plan
from internvl_server.planner.gpus import GpuSet
from internvl_server.planner.memory import Deployment, valid_tps
from internvl_server.settings import ModelSettings, TurbomindSettings

from scripts.gpu_smoke.features import try_features
from scripts.gpu_smoke.prompts import PARITY, mixed

NUM_STREAMS, NUM_ABORTS, MAX_TOKENS = 64, 300, 64
# Kernels round differently in bfloat16, so long texts part; the beginning must not.
MIN_EQUAL_CHARS = 8
# Streams that are left must not make those after them slower.
MIN_SPEED_AFTER_ABORTS = 0.8
START_TIMEOUT_S = 1800


@dataclass
class Row:
    tp: int
    what: str
    result: str
    is_good: bool


@contextlib.contextmanager
def served(
    folder: Path, changes: Sequence[str]
) -> Iterator[tuple[openai.AsyncOpenAI, subprocess.Popen[bytes]]]:
    """The server on a free port, loading; it is stopped on leaving."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "internvl_server", "serve", "--engine", "turbomind", "--model", str(folder),
        "--port", str(port), *(word for change in changes for word in ("--set", change)),
    ]  # fmt: skip
    process = subprocess.Popen(command)
    try:
        client = openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=600
        )
        yield client, process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=180)
        except subprocess.TimeoutExpired:
            process.kill()


async def wait_ready(client: openai.AsyncOpenAI, process: subprocess.Popen[bytes]) -> str:
    """The name of the model, once it can answer."""
    start = time.monotonic()
    while time.monotonic() - start < START_TIMEOUT_S:
        with contextlib.suppress(openai.OpenAIError):
            models = await client.models.list()
            name = models.data[0].id
            question = [{"role": "user", "content": "Hello"}]
            await client.chat.completions.create(model=name, messages=question, max_tokens=1)
            return name
        if process.poll() is not None:
            raise OSError(f"the server ended with exit code {process.returncode}")
        await asyncio.sleep(1)
    raise TimeoutError("the server did not become ready")


async def greedy(client: openai.AsyncOpenAI, model: str) -> dict[str, str]:
    texts = {}
    for name, messages in PARITY.items():
        answer = await client.chat.completions.create(
            model=model, messages=messages, max_tokens=MAX_TOKENS, temperature=0
        )
        texts[name] = answer.choices[0].message.content or ""
    return texts


async def stream(client: openai.AsyncOpenAI, model: str, number: int, leave_after: int = -1) -> int:
    """Completion tokens of one streamed answer, 0 if it was left early."""
    chunks = await client.chat.completions.create(
        model=model, stream=True, stream_options={"include_usage": True}, **mixed(number)
    )
    reason, num_tokens, num_chunks = None, 0, 0
    async with chunks:
        async for chunk in chunks:
            num_chunks += 1
            if num_chunks == leave_after:
                return 0
            if chunk.choices:
                reason = chunk.choices[0].finish_reason or reason
            if chunk.usage is not None:
                num_tokens = chunk.usage.completion_tokens
    if reason not in ("stop", "length") or num_tokens < 1:
        raise RuntimeError(f"stream {number} ended with {reason} after {num_tokens} tokens")
    return num_tokens


async def load(client: openai.AsyncOpenAI, model: str) -> tuple[int, float]:
    """Streams that failed of 64 at a time, and tokens a second of all together."""
    start = time.monotonic()
    results = await asyncio.gather(
        *(stream(client, model, n) for n in range(NUM_STREAMS)), return_exceptions=True
    )
    for failure in (r for r in results if isinstance(r, BaseException)):
        print(f"  a stream failed: {failure}", file=sys.stderr)
    counts = [r for r in results if isinstance(r, int)]
    return NUM_STREAMS - len(counts), sum(counts) / (time.monotonic() - start)


async def leave_many(client: openai.AsyncOpenAI, model: str) -> int:
    """Streams that failed of 300 left after 1 to 8 chunks."""
    rng = random.Random(0)
    results = await asyncio.gather(
        *(stream(client, model, n, rng.randint(1, 8)) for n in range(NUM_ABORTS)),
        return_exceptions=True,
    )
    return sum(isinstance(result, BaseException) for result in results)


def num_equal(one: str, other: str) -> int:
    """Characters two texts have in common from the beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))


async def try_server(
    folder: Path, tp: int, changes: Sequence[str], reference: dict[str, str]
) -> list[Row]:
    rows = []
    with served(folder, changes) as (client, process):
        start = time.monotonic()
        model = await wait_ready(client, process)
        rows.append(Row(tp, "loaded", f"{time.monotonic() - start:.0f} s", is_good=True))
        texts, again = await greedy(client, model), await greedy(client, model)
        rows += compared(tp, "greedy twice", texts, again)
        rows += compared(tp, "as transformers", texts, reference)
        rows += [Row(tp, *found) for found in await try_features(client, model)]
        await load(client, model)  # warm
        num_failed, before = await load(client, model)
        rows.append(Row(tp, "64 streams", f"{before:.0f} tokens/s", num_failed == 0))
        num_failed = await leave_many(client, model)
        rows.append(Row(tp, "300 streams left early", f"{num_failed} failed", num_failed == 0))
        num_failed, after = await load(client, model)
        is_good = num_failed == 0 and after >= MIN_SPEED_AFTER_ABORTS * before
        rows.append(Row(tp, "64 streams after that", f"{after:.0f} tokens/s", is_good))
        start = time.monotonic()
    result = f"exit code {process.returncode} after {time.monotonic() - start:.0f} s"
    return [*rows, Row(tp, "SIGTERM", result, process.returncode == 0)]


def compared(tp: int, what: str, texts: dict[str, str], others: dict[str, str]) -> list[Row]:
    """How far texts are equal: of two runs, the second takes other sums, from the prefix cache."""
    rows = []
    for name in texts.keys() & others.keys():
        equal, length = num_equal(texts[name], others[name]), len(others[name])
        result = f"first {equal} of {length} characters"
        is_good = equal >= min(MIN_EQUAL_CHARS, length)
        rows.append(Row(tp, f"{what}: {name}", result, is_good))
    return rows


def transformers_texts(folder: Path) -> dict[str, str]:
    """Greedy text by transformers; empty with the reason printed where it cannot be had."""
    if load_checkpoint(ModelSettings(path=str(folder))).config.layout != "hf":
        print("The authors' layout has no class in transformers: no comparison with it.")
        return {}
    command = [sys.executable, "-m", "scripts.gpu_smoke.reference", str(folder), str(MAX_TOKENS)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print("transformers could not run the checkpoint (above): no comparison with it.")
        return {}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def largest_tp(config: CheckpointConfig, num_gpus: int) -> int:
    """The most GPUs over which TurboMind can split the model."""
    return max(valid_tps(config, num_gpus))


def changes_for(config: CheckpointConfig, tp: int, gpus: GpuSet) -> list[str]:
    """Settings with which the model fits, or those that the server will refuse with a reason."""
    asked = Deployment(tp=tp, max_num_seqs=NUM_STREAMS, context=config.text.max_position_embeddings)
    plan = fitting_plan(config, asked, gpus)
    deployment = plan.deployment if plan else asked
    return [
        f"engine.turbomind.tp={tp}",
        f"engine.turbomind.cache_max_entry_count={deployment.cache_share}",
        f"engine.turbomind.max_prefill_token_num={deployment.max_prefill_tokens}",
        f"engine.max_num_seqs={NUM_STREAMS}",
        "limits.max_in_flight=512",
    ]


def make_random(folder: Path) -> Path:
    from scripts.make_random_checkpoint import SHAPES, write_checkpoint

    print(f"Writing a 1B-shaped checkpoint with random weights to {folder} ...")
    write_checkpoint(folder, SHAPES["1b"], layout="hf", dtype="bfloat16", seed=0)
    return folder


def report(rows: list[Row]) -> int:
    print("\n| tp | what | result | |\n| --- | --- | --- | --- |")
    for row in rows:
        print(f"| {row.tp} | {row.what} | {row.result} | {'ok' if row.is_good else 'FAILED'} |")
    return 0 if all(row.is_good for row in rows) else 1


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="gpu-smoke", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?", help="checkpoint folder")
    parser.add_argument(
        "--random", action="store_true", help="use random weights of the 1B's shape"
    )
    parser.add_argument("--set", action="append", default=[], help="a setting, as for serve")
    options = parser.parse_args()
    if (options.model is None) != options.random:
        parser.error("give a checkpoint folder, or --random")
    try:
        memory = check_machine(TurbomindSettings(tp=max(1, count_gpus())))
    except StartupError as error:
        print(f"gpu-smoke: {error.message}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as scratch:
        folder = (
            make_random(Path(scratch) / "internvl3-1b-random") if options.random else options.model
        )
        return report(try_folder(folder, GpuSet.of(memory), options.set))


def try_folder(folder: Path, gpus: GpuSet, changes: list[str]) -> list[Row]:
    config = load_checkpoint(ModelSettings(path=str(folder))).config
    reference = transformers_texts(folder)
    rows: list[Row] = []
    for tp in sorted({1, largest_tp(config, gpus.count)}):
        asked = [*changes_for(config, tp, gpus), *changes]
        try:
            rows += asyncio.run(try_server(folder, tp, asked, reference))
        except (OSError, TimeoutError, openai.OpenAIError) as error:
            rows.append(Row(tp, "the trial", f"{type(error).__name__}: {error}", is_good=False))
    return rows


if __name__ == "__main__":
    sys.exit(main())
