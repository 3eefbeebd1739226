"""`internvl-server keys`: make an API key."""

import argparse
import secrets

from internvl_server.cli.settings import UsageError
from internvl_server.settings.keys import digest_of, parse_key

__all__ = ["HELP", "add_options", "run"]

HELP = "make an API key, and its line for server.keys_file"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare NAME."""
    parser.add_argument("NAME", help="name of the client, which is shown in the log")


def run(options: argparse.Namespace) -> int:
    """Print a new key and its line.

    Raises:
        UsageError: The name cannot be one.
    """
    key = f"sk-{secrets.token_urlsafe(32)}"
    line = f"{options.NAME}:sha256:{digest_of(key).hex()}"
    try:
        parse_key(line)
    except ValueError as err:
        raise UsageError(str(err)) from err
    print(f"key for the client:     {key}\nline for the keys file: {line}")
    return 0
