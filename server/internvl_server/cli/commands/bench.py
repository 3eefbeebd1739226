"""`internvl-server bench`: send a load to a server and print latencies and throughput."""

import argparse

from internvl_server.bench import options as bench_options
from internvl_server.cli.settings import UsageError
from internvl_server.settings.loading import hide_keys

__all__ = ["HELP", "add_options", "run"]

HELP = "send a load to an OpenAI-compatible server and print latencies and throughput"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the server, the load, the prompts and the result."""
    parser.usage = "internvl-server bench [URL] [options]"
    parser.allow_abbrev = False
    bench_options.add_options(parser)


def run(options: argparse.Namespace) -> int:
    """Send the load.

    Raises:
        UsageError, StartupError: See `Command.run`.
    """
    from internvl_server.bench.command import bench
    from internvl_server.bench.datasets.base import DatasetError

    if options.api_key:
        hide_keys("internvl-server bench")
    try:
        return bench(options)
    except (DatasetError, OSError) as err:
        raise UsageError.of(err) from err
