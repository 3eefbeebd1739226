"""The options of the `chat` command. Imports nothing large."""

import argparse
import contextlib
import math

from internvl_server.settings.options import at_least, server_url

__all__ = ["add_chat_options"]


def add_chat_options(parser: argparse.ArgumentParser) -> None:
    """Declare the question, the server, and what is sent with the question."""
    add = parser.add_argument
    add(
        "MESSAGE",
        nargs="?",
        help="a single question; without it: standard input, or a conversation if that is a terminal",
    )
    add(
        "--url",
        type=server_url,
        default="http://127.0.0.1:8000",
        help="of the server, http://HOST:PORT/v1 (%(default)s)",
    )
    add("--model", help="name of the model (the first that the server lists)")
    add("--api-key", help="sent as a bearer token (the environment's OPENAI_API_KEY)")
    add("--system", default="", metavar="TEXT", help="system message")
    for kind in ("image", "video"):
        add(
            f"--{kind}",
            action="append",
            default=[],
            metavar="PATH_OR_URL",
            help=f"{kind} for the first question; repeatable",
        )
    add("--max-tokens", type=at_least(1), metavar="N", help="most tokens of an answer")
    add("--temperature", type=_temperature, metavar="T", help="0: the likeliest tokens")


def _temperature(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number that is at least 0")
