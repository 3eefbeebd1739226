"""`internvl-server serve`: serve a model over HTTP."""

import argparse
import gc

from internvl_server.cli.settings import add_model, add_settings, load

__all__ = ["HELP", "add_options", "run"]

HELP = "serve a model over HTTP"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare MODEL and an option for each setting."""
    parser.usage = "internvl-server serve [MODEL] [options]"
    add_model(parser)
    add_settings(parser)


def run(options: argparse.Namespace) -> int:
    """Serve until a signal arrives.

    Raises:
        UsageError, StartupError: See `Command.run`.
    """
    settings = load(options)
    if settings.engine.kind == "turbomind":
        # Before the imports of the server, which take seconds.
        from internvl_server.engine.turbomind.machine import check_machine

        check_machine(settings.engine.turbomind)

    # Imports make no garbage, and the collector would visit what they make again and again. `serve` enables
    # it.
    gc.disable()

    from internvl_server.serve import serve

    return serve(settings)
