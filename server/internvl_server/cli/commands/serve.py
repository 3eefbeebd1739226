"""`internvl-server serve`: serve a model over HTTP."""

import argparse
import gc

from internvl_server.cli.settings import UsageError, add_settings, load
from internvl_server.engine.turbomind.machine import check_machine

__all__ = ["HELP", "add_options", "run"]

HELP = "serve a model over HTTP"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare MODEL and an option for each setting."""
    parser.usage = "internvl-server serve [MODEL] [options]"
    parser.add_argument(
        "MODEL", nargs="?", help="checkpoint folder or hub repository; the same as --model"
    )
    add_settings(parser)


def run(options: argparse.Namespace) -> int:
    """Serve until a signal arrives.

    Raises:
        UsageError, StartupError: See `Command.run`.
    """
    if options.MODEL is not None:
        if hasattr(options, "model.path"):
            raise UsageError("Name the model either as MODEL or with --model, not with both.")
        setattr(options, "model.path", options.MODEL)
    settings = load(options)
    if settings.engine.kind == "turbomind":
        # Before the imports of the server, which take seconds.
        check_machine(settings.engine.turbomind)

    # Imports make no garbage, and the collector would visit what they make again and again. `serve` enables
    # it.
    gc.disable()

    from internvl_server.serve import serve

    return serve(settings)
