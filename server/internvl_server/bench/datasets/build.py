"""The prompts that the options of `bench` ask for."""

import argparse

from internvl_server.bench.datasets.base import DatasetError, Prompt
from internvl_server.bench.datasets.counting import TokenCounter
from internvl_server.bench.datasets.files import read_requests, read_sharegpt
from internvl_server.bench.datasets.lengths import Lengths
from internvl_server.bench.datasets.media import MediaMaker
from internvl_server.bench.datasets.synthetic import Synthetic

__all__ = ["make_prompts"]

_DEFAULT_OUTPUT_LEN = "128"


async def make_prompts(
    options: argparse.Namespace, number: int, counter: TokenCounter
) -> list[Prompt]:
    """So many prompts.

    Raises:
        DatasetError: The options do not fit each other, or a file cannot be used.
        OSError: A file cannot be read.
    """
    if options.dataset_name == "random":
        if options.dataset_path is not None:
            raise DatasetError("--dataset-path needs --dataset-name sharegpt or custom")
        return await _synthetic(options).prompts(number, counter, options.seed)
    if options.dataset_path is None:
        raise DatasetError(f"--dataset-name {options.dataset_name} needs --dataset-path")
    if options.image_count or options.video_count or options.num_prefixes:
        raise DatasetError("only --dataset-name random has pictures, videos and shared prefixes")
    output_len = _fixed(options.output_len)
    if options.dataset_name == "sharegpt":
        return await read_sharegpt(
            options.dataset_path, number, counter, output_len=output_len, seed=options.seed
        )
    return read_requests(options.dataset_path, number, output_len=output_len)


def _synthetic(options: argparse.Namespace) -> Synthetic:
    if bool(options.num_prefixes) != bool(options.prefix_len):
        raise DatasetError("--num-prefixes and --prefix-len need each other")
    media = MediaMaker(
        options.image_count, options.image_size, options.image_format.upper(),
        options.video_count, options.video_frames, options.video_size[0],
        options.media_pool, options.media_repeat,
    )  # fmt: skip
    return Synthetic(
        _lengths("--input-len", options.input_len, options.random_range_ratio),
        _lengths("--output-len", options.output_len or _DEFAULT_OUTPUT_LEN, options.random_range_ratio),
        options.num_prefixes, options.prefix_len, media,
    )  # fmt: skip


def _lengths(name: str, text: str, range_ratio: float) -> Lengths:
    try:
        return Lengths.parse(text, range_ratio)
    except ValueError as err:
        raise DatasetError(f"{name}: {err}") from err


def _fixed(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal():
        raise DatasetError("--output-len of a file must be a number")
    return int(text)
