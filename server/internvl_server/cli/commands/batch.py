"""`internvl-server batch`: answer a file of requests."""

import argparse

from internvl_server.batch.options import add_batch_options
from internvl_server.cli.settings import UsageError, add_settings, load

__all__ = ["HELP", "add_options", "run"]

HELP = "answer a file of requests in OpenAI's batch format, without a socket"

_SOCKET_SETTINGS = frozenset({"server.host", "server.port"})  # a batch opens no socket


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the files, how they are sent, and an option for each setting."""
    parser.usage = "internvl-server batch INPUT -o OUTPUT [options]"
    add_batch_options(parser)
    add_settings(parser, without=_SOCKET_SETTINGS)


def run(options: argparse.Namespace) -> int:
    """Answer the file.

    Raises:
        UsageError, StartupError: See `Command.run`.
    """
    settings = load(options)

    from internvl_server.batch.command import run_batch
    from internvl_server.batch.files import BatchError

    try:
        return run_batch(settings, options)
    except (BatchError, OSError) as err:
        raise UsageError.of(err) from err
