"""The options of the `batch` command. Imports nothing large, so that `--help` answers quickly."""

import argparse
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["add_batch_options"]


def add_batch_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `batch` other than those of settings."""
    parser.add_argument("input", type=Path, help="JSON lines of custom_id, method, url and body")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="answers; continued if the file exists"
    )
    parser.add_argument(
        "--url",
        type=_server_url,
        help="ask the server at this address, http://HOST:PORT/v1, instead of running one",
    )
    parser.add_argument(
        "--concurrency", type=_at_least(1), default=16, help="requests at a time (%(default)s)"
    )
    parser.add_argument(
        "--max-retries",
        type=_at_least(0),
        default=10,
        help="times a request refused with 429 or 503 is sent again (%(default)s)",
    )


def _server_url(text: str) -> str:
    """The address of a server without `/v1`."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError(f"{text!r}: write http://HOST:PORT/v1")
    return text.rstrip("/").removesuffix("/v1")


def _at_least(minimum: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        if int(text) < minimum:
            raise argparse.ArgumentTypeError(f"it must be at least {minimum}")
        return int(text)

    return integer
