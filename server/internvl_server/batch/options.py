"""The options of the `batch` command. Imports nothing large, so that `--help` answers quickly."""

import argparse
from collections.abc import Callable
from pathlib import Path

__all__ = ["add_batch_options"]

_MAX_RETRIES = 10


def add_batch_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `batch` other than those of settings."""
    parser.add_argument("input", type=Path, help="JSON lines of custom_id, method, url and body")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="answers; continued if the file exists"
    )
    parser.add_argument(
        "--url", help="ask the server at this address, http://HOST:PORT/v1, instead of running one"
    )
    parser.add_argument(
        "--concurrency", type=_at_least(1), default=16, help="requests at a time (%(default)s)"
    )
    parser.add_argument(
        "--max-retries",
        type=_at_least(0),
        default=_MAX_RETRIES,
        help="times a request refused with 429 or 503 is sent again (%(default)s)",
    )


def _at_least(minimum: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        if int(text) < minimum:
            raise argparse.ArgumentTypeError(f"it must be at least {minimum}")
        return int(text)

    return integer
