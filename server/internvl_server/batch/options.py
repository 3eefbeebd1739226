"""The options of the `batch` command. Imports nothing large, so that `--help` answers quickly."""

import argparse
from pathlib import Path

from internvl_server.settings.options import at_least, server_url

__all__ = ["add_batch_options"]


def add_batch_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `batch` other than those of settings."""
    parser.add_argument("input", type=Path, help="JSON lines of custom_id, method, url and body")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="answers; continued if the file exists"
    )
    parser.add_argument(
        "--url",
        type=server_url,
        help="ask the server at this address, http://HOST:PORT/v1, instead of running one",
    )
    parser.add_argument(
        "--concurrency", type=at_least(1), default=16, help="requests at a time (%(default)s)"
    )
    parser.add_argument(
        "--max-retries",
        type=at_least(0),
        default=10,
        help="times a request refused with 429 or 503 is sent again (%(default)s)",
    )
