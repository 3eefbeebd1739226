#!/usr/bin/env python3
"""How much a picture disturbs a text stream: gaps between its tokens, alone and beside 12-tile pictures.

    .venv/bin/python scripts/bench_interference.py [--pictures 5]

Starts the real server with the CPU engine on a random-weight model (448-px tiles, 256 tokens each),
streams one long text answer, and meanwhile sends 12-megapixel JPEGs with `detail: high`. Prints the gaps
and their ratios for three spans of the same stream: nothing else running; a picture being prepared
(decoded and tiled: from sending it to the opening of its answer); and a picture's whole request, vision
tower and prefill included.
"""

import argparse
import asyncio
import base64
import io
import itertools
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import openai
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from scripts.make_random_checkpoint import Shape, write_checkpoint  # noqa: E402

# Sizes near the bundled demo model's, but 448-px tiles of 256 tokens as InternVL3 has them.
SHAPE = Shape(2000, 192, 4, 6, 3, 576, 32_768, 192, 4, 6, 768, 448)


def picture() -> str:
    """A 4000x3000 photo-like JPEG as a `data:` URL: smooth colour with grain."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((4000, 3000), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def start_server(checkpoint: Path) -> tuple[subprocess.Popen[str], str]:
    """The server as a process, once it is ready; and its base URL."""
    process = subprocess.Popen(
        [
            sys.executable, "-m", "internvl_server", "serve",
            "--engine", "cpu", "--port", "0", "--model", str(checkpoint),
        ],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    url = ""
    for line in process.stderr:
        if found := re.search(r"(http://\S+/v1)", line):
            url = found.group(1)
        if "ready after" in line:
            return process, url
    raise SystemExit("the server did not start")


async def stream_text(client: openai.AsyncOpenAI, arrivals: list[float], tokens: int) -> None:
    """One long answer; the arrival time of every chunk."""
    stream = await client.chat.completions.create(
        model="bench", messages=[{"role": "user", "content": "Go on."}], stream=True,
        max_tokens=tokens, temperature=1.5, seed=3, extra_body={"ignore_eos": True},
    )  # fmt: skip
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            arrivals.append(time.monotonic())


async def send_picture(client: openai.AsyncOpenAI, url: str) -> tuple[float, float, float]:
    """When one picture was sent, when its answer's stream opened (preparation over), when it ended."""
    part = {"type": "image_url", "image_url": {"url": url, "detail": "high"}}
    sent = time.monotonic()
    stream = await client.chat.completions.create(
        model="bench", messages=[{"role": "user", "content": [part]}], max_tokens=1, stream=True
    )
    opened = time.monotonic()
    async for _ in stream:
        pass
    return sent, opened, time.monotonic()


async def measure(url: str, num_pictures: int) -> dict[str, list[float]]:
    """Gaps in seconds of each span."""
    image = picture()
    client = openai.AsyncOpenAI(base_url=url, api_key="none", timeout=300)
    await send_picture(client, image)  # warms the workers
    arrivals: list[float] = []
    text = asyncio.create_task(stream_text(client, arrivals, 16_000))
    await asyncio.sleep(4)
    quiet_until = time.monotonic()
    spans = []
    for _ in range(num_pictures):
        spans.append(await send_picture(client, image))
        await asyncio.sleep(0.3)
    text.cancel()
    await asyncio.gather(text, return_exceptions=True)
    gaps = [(a, b - a) for a, b in itertools.pairwise(arrivals)]
    return {
        "alone": [gap for at, gap in gaps if at < quiet_until][20:],
        "being prepared": [g for at, g in gaps if any(s <= at <= o for s, o, _ in spans)],
        "whole request": [g for at, g in gaps if any(s <= at <= e for s, _, e in spans)],
    }


def show(gaps: dict[str, list[float]]) -> None:
    """One row a span; ratios are to the stream alone."""
    base = statistics.median(gaps["alone"])
    print(f"{'picture':<16}{'gaps':>6}{'median ms':>11}{'mean ms':>9}{'p95 ms':>8}{'max ms':>8}"
          f"{'median ratio':>14}{'mean ratio':>12}")  # fmt: skip
    for name, values in gaps.items():
        p95 = statistics.quantiles(values, n=20)[-1]
        median, mean = statistics.median(values), statistics.fmean(values)
        print(
            f"{name:<16}{len(values):>6}{median * 1e3:>11.2f}{mean * 1e3:>9.2f}{p95 * 1e3:>8.2f}"
            f"{max(values) * 1e3:>8.1f}{median / base:>14.2f}"
            f"{mean / statistics.fmean(gaps['alone']):>12.2f}"
        )


def main() -> None:
    """Make the model, run the server, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "bench"
        write_checkpoint(checkpoint, SHAPE)
        process, url = start_server(checkpoint)
        try:
            show(asyncio.run(measure(url, options.pictures)))
        finally:
            process.kill()
            process.communicate()


if __name__ == "__main__":
    main()
