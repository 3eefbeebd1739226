"""Measure the CPU engine on a checkpoint, or transformers beside it, in a separate process; prints JSON.

    python -m tests.model.measure_cpu_engine FOLDER --dtype float32 --quantization int8
    python -m tests.model.measure_cpu_engine FOLDER --dtype float32 --engine transformers

transformers reads the `-hf` layout only. Times are in seconds, wall clock and (`_cpu`) of all threads; each
is the median of `--repeats`. `anonymous_gib` is the memory at the end without the mapped pages of files,
which `peak_rss_gib` counts.
"""

import argparse
import asyncio
import contextlib
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

# As the server sets it for this engine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import dataclasses

from internvl_server.checkpoint.files import Checkpoint
from internvl_server.core import GenerateRequest

from tests.model.cpu_requests import answer, make_request, read_checkpoint, running_engine

# The tokens of a request's answer.
Generate = Callable[[GenerateRequest], Awaitable[list[int]]]
NUM_STREAMS = 8
NUM_TOKENS = 17


async def timed(work: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Wall clock and processor time of a piece of work."""
    wall, cpu = time.perf_counter(), time.process_time()
    await work()
    return time.perf_counter() - wall, time.process_time() - cpu


async def measure(generate: Generate, checkpoint: Checkpoint, num_streams: int) -> dict[str, float]:
    """One round, with prompts that were not asked before."""
    seed = time.time_ns() % 2**31

    async def first(request: GenerateRequest) -> list[float]:
        one = dataclasses.replace(request, max_tokens=1)
        return list(await timed(lambda: generate(one)))

    async def tokens() -> list[float]:
        """Seconds a token after the first one."""
        begin = await first(make_request(checkpoint, num_text=64, seed=seed))
        text = make_request(checkpoint, num_text=64, max_tokens=NUM_TOKENS, seed=seed + 1)
        whole = await timed(lambda: generate(text))
        return [(w - b) / (NUM_TOKENS - 1) for w, b in zip(whole, begin, strict=True)]

    async def streams() -> list[float]:
        many = [
            make_request(checkpoint, num_text=8, seed=seed + i, max_tokens=NUM_TOKENS)
            for i in range(num_streams)
        ]
        took = await timed(lambda: asyncio.gather(*map(generate, many)))
        return [value / num_streams / NUM_TOKENS for value in took]

    image = make_request(checkpoint, (1,), seed=seed)
    answered = [5, 6, 7]
    later = dataclasses.replace(
        image, prompt_token_ids=(*image.prompt_token_ids, *answered, *range(20))
    )
    parts = {
        "text_first": await first(make_request(checkpoint, num_text=256, seed=seed)),
        "token": await tokens(),
        "token_of_streams": await streams(),
        "image_first": await first(image),
        "image_second_turn": await first(later),
    }
    return {
        key: value
        for name, (wall, cpu) in parts.items()
        for key, value in ((name, wall), (f"{name}_cpu", cpu))
    }


@contextlib.asynccontextmanager
async def transformers_engine(folder: Path, dtype: str):
    """transformers' own `generate`, without a cache between requests."""
    import torch
    from transformers import InternVLForConditionalGeneration

    model = InternVLForConditionalGeneration.from_pretrained(folder, dtype=getattr(torch, dtype))

    async def generate(request: GenerateRequest) -> list[int]:
        ids = torch.tensor([request.prompt_token_ids])
        pixels = {}
        if request.pixel_values:
            values = torch.cat([torch.from_numpy(tiles) for tiles in request.pixel_values])
            pixels["pixel_values"] = values.to(model.dtype)
        with torch.inference_mode():
            output = model.eval().generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                **pixels,
                max_new_tokens=request.max_tokens,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        return output[0, ids.shape[1] :].tolist()

    yield generate


@contextlib.asynccontextmanager
async def cpu_engine(checkpoint: Checkpoint, **settings):
    async with running_engine(checkpoint, **settings) as engine:

        async def generate(request: GenerateRequest) -> list[int]:
            return (await answer(engine, request))[0]

        yield generate


async def run(args: argparse.Namespace) -> dict[str, float]:
    checkpoint = read_checkpoint(args.folder)
    started = time.perf_counter()
    is_reference = args.engine == "transformers"
    if is_reference:
        engine = transformers_engine(args.folder, args.dtype)
    else:
        settings = {"dtype": args.dtype, "num_threads": args.threads}
        if args.quantization != "none":
            settings["quantization"] = args.quantization
        engine = cpu_engine(checkpoint, **settings)
    async with engine as generate:
        result = {"load": time.perf_counter() - started}
        await generate(make_request(checkpoint, max_tokens=2))
        # transformers' `generate` would need padding to compute several prompts at once.
        num_streams = 1 if is_reference else NUM_STREAMS
        rounds = [await measure(generate, checkpoint, num_streams) for _ in range(args.repeats)]
        for name in rounds[0]:
            result[name] = statistics.median(measured[name] for measured in rounds)
        status = Path("/proc/self/status").read_text()
        anonymous_kib = int(status.partition("RssAnon:")[2].split()[0])
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result |= {"anonymous_gib": anonymous_kib / 2**20, "peak_rss_gib": peak_kib / 2**20}
    return {name: round(value, 4) for name, value in result.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--quantization", default="none")
    parser.add_argument("--engine", choices=["cpu", "transformers"], default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    sys.stdout.write(json.dumps(asyncio.run(run(parser.parse_args()))) + "\n")


if __name__ == "__main__":
    main()
