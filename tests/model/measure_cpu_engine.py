"""Measure the CPU engine on a checkpoint, in a process of its own, and print JSON.

    python -m tests.model.measure_cpu_engine FOLDER float32|bfloat16 [NUM_THREADS]

Times are wall clock; `peak_rss_gib` counts the mapped pages of the weight files too.
"""

import asyncio
import json
import resource
import sys
import time
from pathlib import Path

from tests.model.cpu_requests import make_request, read_checkpoint, running_engine


async def first_and_rate(engine, request):
    """Seconds to the first token, and tokens a second after it."""
    started = time.perf_counter()
    num_tokens = 0
    async with engine.generate(request) as deltas:
        async for delta in deltas:
            if not num_tokens:
                first = time.perf_counter()
            num_tokens += len(delta.token_ids)
    return round(first - started, 2), round((num_tokens - 1) / (time.perf_counter() - first), 2)


async def measure(folder: Path, dtype: str, num_threads: int) -> dict[str, object]:
    checkpoint = read_checkpoint(folder)
    started = time.perf_counter()
    async with running_engine(checkpoint, dtype=dtype, num_threads=num_threads) as engine:
        result: dict[str, object] = {"load_s": round(time.perf_counter() - started, 1)}
        text = make_request(checkpoint, num_text=64, max_tokens=24)
        result["text_first_s"], result["text_tokens_per_s"] = await first_and_rate(engine, text)
        image = make_request(checkpoint, (1,), max_tokens=8)
        result["image_first_s"], result["image_tokens_per_s"] = await first_and_rate(engine, image)
        started = time.perf_counter()
        many = [make_request(checkpoint, num_text=8, seed=i, max_tokens=8) for i in range(16)]
        await asyncio.gather(*(first_and_rate(engine, request) for request in many))
        result["batch_tokens_per_s"] = round(16 * 8 / (time.perf_counter() - started), 1)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {**result, "peak_rss_gib": round(peak_kib / 2**20, 2)}


if __name__ == "__main__":
    threads = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    measured = asyncio.run(measure(Path(sys.argv[1]), sys.argv[2], threads))
    sys.stdout.write(json.dumps(measured) + "\n")
