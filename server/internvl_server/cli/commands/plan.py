"""`internvl-server plan`: which GPUs a model fits."""

import argparse

from internvl_server.cli.settings import UsageError
from internvl_server.planner.command import add_plan_options, plan_text

__all__ = ["HELP", "add_options", "run"]

HELP = "print which GPUs a model fits, and how"
add_options = add_plan_options


def run(options: argparse.Namespace) -> int:
    """Print the plans.

    Raises:
        UsageError, StartupError: See `Command.run`.
    """
    try:
        text = plan_text(options)
    except (OSError, ValueError) as err:
        raise UsageError.of(err) from err
    print(text)
    return 0
