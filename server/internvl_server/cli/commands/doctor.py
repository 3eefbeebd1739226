"""`internvl-server doctor`: check this machine and the settings without starting the server."""

import argparse

from internvl_server.cli.settings import UsageError, add_model, add_settings, load
from internvl_server.doctor.command import diagnose

__all__ = ["HELP", "add_options", "run"]

HELP = "check this machine and the settings, and say what to do; starts nothing"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `serve`, and the form of the output."""
    parser.usage = "internvl-server doctor [MODEL] [options of serve]"
    add_model(parser)
    add_settings(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print the findings; the exit code is 1 if there is an error."""
    try:
        settings, problem = load(options), ""
    except UsageError as err:
        settings, problem = None, f"{str(err).removesuffix('.')}."
    return diagnose(settings, problem, is_json=options.json)
