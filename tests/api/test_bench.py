"""`internvl-server bench` against this server, and against a plain OpenAI-compatible stub."""

import asyncio
import contextlib
import json
import re
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from internvl_server.cli import main

from scripts.load.openai_stub import Stub, listening
from tests.live_server import LiveServer
from tests.terminal import Terminal

ROOT = Path(__file__).parents[2]
SHORT = ("--num-prompts", "12", "--input-len", "16", "--output-len", "8", "--ignore-eos")
VLLM_NAMES = {
    f"{kind}_{metric}_ms"
    for kind in ("mean", "median", "std", "p99")
    for metric in ("ttft", "tpot", "itl", "e2el")
} | {
    "date", "backend", "endpoint_type", "label", "model_id", "tokenizer_id", "num_prompts", "request_rate",
    "burstiness", "max_concurrency", "duration", "completed", "failed", "total_input_tokens",
    "total_output_tokens", "request_throughput", "request_goodput", "output_throughput",
    "total_token_throughput", "max_output_tokens_per_s", "max_concurrent_requests",
}  # fmt: skip
VLLM_DETAILS = {
    "input_lens", "output_lens", "ttfts", "itls", "start_times", "latencies", "queue_times", "errors",
    "generated_texts",
}  # fmt: skip


class Ended:
    """What the command printed, and its result file."""

    def __init__(self, code: int | None, out: str, err: str, file: Path) -> None:
        self.code, self.out, self.err = code, out, err
        self.result: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    @property
    def row_names(self) -> list[str]:
        lines = self.out.splitlines()
        return [re.split(r"\s{2,}", line)[0] for line in lines if line.strip()]


async def start(url: str, *options: str) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "internvl_server", "bench", url, *options]
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=pipe, stderr=pipe)


async def ended(process: asyncio.subprocess.Process, file: Path) -> Ended:
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return Ended(process.returncode, out.decode(), err.decode(), file)


Bench = Callable[..., Awaitable[Ended]]


@pytest.fixture
def bench(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Bench:
    """Runs the command in a thread, which spares the start of a process."""

    async def run(url: str, *options: str) -> Ended:
        file = tmp_path / "result.json"
        arguments = ["bench", url, "--result-filename", str(file), *options]
        try:
            code = await asyncio.to_thread(main, arguments)
        except SystemExit as err:
            code = int(str(err))
        return Ended(code, *capfd.readouterr(), file)

    return run


def stub_url(stub: Stub) -> str:
    return f"http://127.0.0.1:{stub.port}/v1"


async def test_both_servers_get_the_same_table(echo_server: LiveServer, bench: Bench) -> None:
    options = (*SHORT, "--request-rate", "200", "--goodput", "ttft:60000", "--save-detailed")
    ours = await bench(echo_server.url, *options)
    async with listening(Stub()) as stub:
        theirs = await bench(stub_url(stub), *options)
    assert (ours.code, theirs.code) == (0, 0), ours.err + theirs.err
    assert ours.row_names == theirs.row_names
    assert {"Completed requests", "Time to first token", "Inter-token latency"} <= set(
        ours.row_names
    )
    assert ours.result.keys() == theirs.result.keys()
    assert ours.result.keys() >= VLLM_NAMES | VLLM_DETAILS
    assert (ours.result["completed"], theirs.result["completed"]) == (12, 12)
    assert ours.result["total_output_tokens"] == 12 * 8
    assert ours.result["request_goodput"] == pytest.approx(ours.result["request_throughput"])
    assert ours.result["input_lengths_are_exact"]
    assert "%|" not in ours.err  # no progress bar without a terminal


async def test_a_terminal_gets_a_progress_bar() -> None:
    def seen(*options: str) -> str:
        with Terminal("bench", *SHORT, *options) as terminal:
            assert terminal.exit_code() == 0
            return terminal.written

    async with listening(Stub()) as stub:
        assert "12/12" in await asyncio.to_thread(seen, stub_url(stub))
        assert "12/12" not in await asyncio.to_thread(seen, stub_url(stub), "--disable-tqdm")


@pytest.mark.parametrize("endpoint", ["chat", "completions", "responses"])
@pytest.mark.parametrize("stream", [True, False])
async def test_endpoints(
    echo_server: LiveServer, bench: Bench, tiny_checkpoint: Path, endpoint: str, stream: bool
) -> None:
    options = [
        *SHORT,
        "--tokenizer",
        str(tiny_checkpoint),
        "--endpoint",
        endpoint,
        "--max-concurrency",
        "3",
    ]
    done = await bench(echo_server.url, *options, *([] if stream else ["--no-stream"]))
    result = done.result
    assert (done.code, result["completed"], result["total_output_tokens"]) == (0, 12, 96), done.err
    assert (result["mean_ttft_ms"] is not None) == stream
    assert result["max_concurrent_requests"] <= 3


async def test_pictures_videos_and_shared_prefixes(
    echo_server: LiveServer, bench: Bench, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    media = ["--tokenizer", str(tiny_checkpoint)]
    media += ["--image-count", "2", "--image-size", "64x48,32x32", "--media-repeat", "0.5"]
    media += ["--video-count", "1", "--video-frames", "2", "--video-size", "64x48"]
    plot = tmp_path / "plot.svg"
    done = await bench(
        echo_server.url, *SHORT, *media, "--num-prefixes", "2", "--prefix-len", "20",
        "--max-concurrency", "4", "--num-warmups", "2", "--plot", str(plot),
    )  # fmt: skip
    assert (done.code, done.result["completed"]) == (0, 12), done.err
    assert done.result["total_input_tokens"] > 12 * (16 + 20)
    lines = ElementTree.parse(plot).iter("{http://www.w3.org/2000/svg}polyline")
    assert len(list(lines)) == 4  # two latencies, chunks, requests in flight


async def test_files_of_requests(echo_server: LiveServer, bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}))
    done = await bench(
        echo_server.url, "--dataset-name", "custom", "--dataset-path", str(path),
        "--num-prompts", "5", "--extra-body", '{"min_tokens": 3}',
    )  # fmt: skip
    assert (done.result["completed"], done.result["total_output_tokens"]) == (5, 15), done.err


async def test_refusals_and_failures_are_counted(bench: Bench) -> None:
    statuses = {3: 429, 4: 429, 6: 500}
    async with listening(Stub(status_of=lambda number: statuses.get(number, 200))) as stub:
        done = await bench(stub_url(stub), *SHORT)
    result = done.result
    assert done.code == 0
    assert (result["completed"], result["failed"], result["refused"]) == (9, 3, 2)
    assert result["errors_by_status"] == {"429": 2, "500": 1}
    assert result["errors_by_code"] == {"scripted_429": 2, "scripted_500": 1}
    assert "429 x 2" in done.out


async def test_tokens_without_usage_are_chunks(bench: Bench) -> None:
    async with listening(Stub(has_usage=False)) as stub:
        done = await bench(stub_url(stub), *SHORT)
    assert done.result["output_tokens_from"] == "chunks"
    assert done.result["total_output_tokens"] == 12 * 3
    assert "reported no usage" in done.err
    assert "--tokenizer" in done.err


async def test_scripted_delays_are_measured(bench: Bench) -> None:
    """The stub waits at least so long; how much longer depends on the machine."""
    async with listening(Stub(delays_s=(0.2, 0.1, 0.05))) as stub:
        done = await bench(stub_url(stub), *SHORT, "--save-detailed")
    assert min(done.result["ttfts"]) >= 0.2
    assert min(done.result["latencies"]) >= 0.35
    assert {len(itls) for itls in done.result["itls"]} == {2}


async def test_cut_streams_are_failures(bench: Bench) -> None:
    async with listening(Stub(is_cut=True)) as stub:
        done = await bench(stub_url(stub), *SHORT)
    assert done.code == 1
    assert "cut_stream" in done.err


async def test_a_server_that_refuses_ignore_eos_is_asked_without_it(bench: Bench) -> None:
    async with listening(Stub(status_of=lambda number: 400 if number == 0 else 200)) as stub:
        done = await bench(stub_url(stub), *SHORT)
    assert done.code == 0
    assert "refuses ignore_eos" in done.err
    assert ["ignore_eos" in body for body in stub.bodies] == [True, *[False] * 13]


async def test_an_interrupt_prints_what_there_is(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    async with listening(Stub(delays_s=(0.0,) * 3)) as stub:
        process = await start(
            stub_url(stub), *SHORT[2:], "--num-prompts", "10000", "--request-rate", "50",
            "--result-filename", str(file),
        )  # fmt: skip
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(60):
                while len(stub.bodies) < 30:
                    await asyncio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        done = await ended(process, file)
    assert done.code == 130
    assert done.result["is_interrupted"]
    assert 1 <= done.result["completed"] < 10_000
    assert "Completed requests" in done.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--endpoint", "completions", "--image-count", "1"], "take --endpoint chat"),
        (["--dataset-name", "custom"], "needs --dataset-path"),
        (["--num-prefixes", "2"], "need each other"),
        (["--input-len", "many"], "--input-len"),
        (["--metric-percentiles", "101"], "between 0 and 100"),
        (["--goodput", "speed:3"], "ttft, tpot, e2el"),
    ],
)
async def test_options_that_cannot_be_used(bench: Bench, options: list[str], said: str) -> None:
    async with listening(Stub()) as stub:
        done = await bench(stub_url(stub), *options)
    assert done.code == 2
    assert said in done.err
    assert not done.result


async def test_no_server(bench: Bench) -> None:
    async with listening(Stub()) as stub:
        url = stub_url(stub)
    done = await bench(url)
    assert done.code == 1
    assert f"No answer from {url.removesuffix('/v1')}" in done.err


async def test_a_server_that_needs_a_key(
    bench: Bench, start_server: Callable[..., LiveServer]
) -> None:
    done = await bench(start_server(server={"api_keys": ["right"]}).url)
    assert done.code == 1
    assert "status 401" in done.err
    assert "--model" not in done.err
