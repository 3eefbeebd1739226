"""`internvl-server chat`: talk to a server in a terminal."""

import argparse

from internvl_server.chat.options import add_chat_options
from internvl_server.cli.settings import UsageError
from internvl_server.settings.loading import hide_keys

__all__ = ["HELP", "add_options", "run"]

HELP = "talk to an OpenAI-compatible server in a terminal, or ask it one question"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the question, the server and what is sent with it."""
    parser.usage = "internvl-server chat [MESSAGE] [options]"
    parser.allow_abbrev = False
    add_chat_options(parser)


def run(options: argparse.Namespace) -> int:
    """Talk until the end of the input.

    Raises:
        UsageError, StartupError: See `Command.run`.
    """
    from internvl_server.chat.command import chat
    from internvl_server.chat.conversation import ChatError

    if options.api_key:
        hide_keys("internvl-server chat")
    try:
        return chat(options)
    except ChatError as err:
        raise UsageError(str(err)) from err
