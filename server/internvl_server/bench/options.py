"""The options of the `bench` command, alike to those of `vllm bench serve`. Imports nothing large."""

import argparse
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from internvl_server.settings.options import at_least, server_url

__all__ = ["add_options"]

_DEFAULT_URL = "http://127.0.0.1:8000"
_METRICS = ("ttft", "tpot", "itl", "e2el", "client_queue_time")
_SLO_METRICS = ("ttft", "tpot", "e2el")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bench`."""
    _add_server(parser.add_argument_group("server"))
    _add_load(parser.add_argument_group("load"))
    _add_prompts(parser.add_argument_group("prompts"))
    _add_media(parser.add_argument_group("pictures and videos of synthetic prompts"))
    _add_result(parser.add_argument_group("result"))


def _add_server(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add("URL", nargs="?", type=server_url, help=f"http://HOST:PORT or …/v1 ({_DEFAULT_URL})")
    add("--base-url", type=server_url, help="the same as URL")
    add("--model", help="name of the model (the first that the server lists)")
    add(
        "--endpoint",
        choices=("chat", "completions", "responses"),
        default="chat",
        help="(%(default)s)",
    )
    add("--no-stream", dest="stream", action="store_false", help="ask for whole answers")
    add("--api-key", help="sent as a bearer token (the environment's OPENAI_API_KEY)")
    add(
        "--header", type=_pair, action="append", default=[], metavar="NAME=VALUE", help="repeatable"
    )
    add("--extra-body", type=_json_object, default={}, metavar="JSON", help="members of every body")
    add("--insecure", action="store_true", help="do not check the server's certificate")


def _add_load(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add(
        "--request-rate", type=_above_zero, default=math.inf, metavar="RATE",
        help="requests a second, sent whether the server keeps up or not (inf: all at once)",
    )  # fmt: skip
    add(
        "--burstiness", type=_above_zero, default=1.0, metavar="SHAPE",
        help="1: Poisson; less: bursts; inf: constant intervals (%(default)s)",
    )  # fmt: skip
    add(
        "--max-concurrency", type=at_least(1), metavar="N",
        help="most requests at a time; without --request-rate, N clients in a closed loop",
    )  # fmt: skip
    add(
        "--num-prompts",
        type=at_least(1),
        metavar="N",
        help="(1000, or as many as --duration takes)",
    )
    add(
        "--duration",
        type=_above_zero,
        default=math.inf,
        metavar="S",
        help="send nothing after S seconds",
    )
    add(
        "--num-warmups",
        type=at_least(0),
        default=0,
        metavar="N",
        help="requests that are not measured",
    )
    add("--seed", type=at_least(0), default=0, help="of arrivals and prompts (%(default)s)")


def _add_prompts(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add(
        "--dataset-name", choices=("random", "sharegpt", "custom"), default="random",
        help="synthetic texts, a ShareGPT file, or JSON lines of requests (%(default)s)",
    )  # fmt: skip
    add("--dataset-path", type=Path, metavar="FILE", help="of sharegpt and custom")
    lengths = "tokens: 512, uniform:LOW:HIGH, normal:MEAN:DEVIATION or lognormal:MEDIAN:SIGMA"
    add(
        "--input-len",
        default="512",
        metavar="LENGTH",
        help=f"of prompts, in {lengths} (%(default)s)",
    )
    add("--output-len", metavar="LENGTH", help="of answers, likewise (128, or those of the file)")
    add(
        "--random-range-ratio",
        type=_share,
        default=0.0,
        metavar="R",
        help="lengths vary by this share",
    )
    add("--num-prefixes", type=at_least(0), default=0, metavar="N", help="shared system texts")
    add(
        "--prefix-len",
        type=at_least(0),
        default=0,
        metavar="TOKENS",
        help="length of each of them",
    )
    add("--ignore-eos", action="store_true", help="answers are as long as asked for")
    add("--tokenizer", type=Path, metavar="FILE", help="tokenizer.json (the server's /tokenize)")


def _add_media(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add("--image-count", type=at_least(0), default=0, metavar="N", help="pictures of a prompt")
    add(
        "--image-size", type=_sizes, default="1280x720", metavar="WxH[,…]",
        help="one is drawn for each picture (%(default)s)",
    )  # fmt: skip
    add("--image-format", choices=("jpeg", "png"), default="jpeg", help="(%(default)s)")
    add("--video-count", type=at_least(0), default=0, metavar="N", help="videos of a prompt")
    add(
        "--video-frames",
        type=at_least(1),
        default=16,
        metavar="N",
        help="frames of each (%(default)s)",
    )
    add("--video-size", type=_sizes, default="640x360", metavar="WxH", help="(%(default)s)")
    add(
        "--media-pool",
        type=at_least(1),
        default=1,
        metavar="N",
        help="different files that are repeated",
    )
    add(
        "--media-repeat", type=_share, default=0.0, metavar="SHARE",
        help="share of pictures and videos from the pool; the others are new (%(default)s)",
    )  # fmt: skip


def _add_result(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add(
        "--percentile-metrics",
        type=_names(_METRICS),
        default="ttft,tpot,itl,e2el",
        help="(%(default)s)",
    )
    add("--metric-percentiles", type=_percentiles, default="90,95,99", help="(%(default)s)")
    add(
        "--goodput", type=_objective, nargs="+", default=[], metavar="METRIC:MS",
        help="objectives of a good request, as in ttft:500 tpot:50 e2el:5000",
    )  # fmt: skip
    add(
        "--latency-from", choices=("arrival", "send"), default="arrival",
        help="measure from when a request was due, or from when it was sent (%(default)s)",
    )  # fmt: skip
    add("--save-result", action="store_true", help="write a JSON file, named after load and time")
    add("--result-filename", type=Path, metavar="FILE", help="write it to this file")
    add("--result-dir", type=Path, metavar="FOLDER", help="write it to this folder")
    add("--save-detailed", action="store_true", help="with the times and text of each request")
    add("--metadata", type=_pair, nargs="*", default=[], metavar="NAME=VALUE", help="for the file")
    add("--label", help="what is measured, for the file and the plot")
    add("--plot", type=Path, metavar="FILE.svg", help="draw latencies and their course")
    add("--disable-tqdm", action="store_true", help="no progress bar, which only terminals get")


def _above_zero(text: str) -> float:
    if not (value := float(text)) > 0:
        raise argparse.ArgumentTypeError("it must be above 0")
    return value


def _share(text: str) -> float:
    if not 0 <= (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError("it must be between 0 and 1")
    return value


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=VALUE")
    return name, value


def _json_object(text: str) -> Mapping[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("write a JSON object")
    return value


def _sizes(text: str) -> tuple[tuple[int, int], ...]:
    sizes = tuple(tuple(map(int, size.split("x"))) for size in text.split(","))
    if not all(len(size) == 2 and min(size) > 0 for size in sizes):  # noqa: PLR2004
        raise argparse.ArgumentTypeError(f"{text!r}: write WIDTHxHEIGHT")
    return sizes  # type: ignore[return-value]


def _names(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        found = text.split(",")
        if unknown := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return found

    return names


def _percentiles(text: str) -> list[float]:
    found = [float(word) for word in text.split(",")]
    if not all(0 <= value <= 100 for value in found):  # noqa: PLR2004
        raise argparse.ArgumentTypeError("percentiles are between 0 and 100")
    return found


def _objective(text: str) -> tuple[str, float]:
    name, _, value = text.partition(":")
    if name not in _SLO_METRICS or not value or float(value) < 0:
        raise argparse.ArgumentTypeError(
            f"{text!r}: write METRIC:MILLISECONDS, with a metric of {', '.join(_SLO_METRICS)}"
        )
    return name, float(value)
