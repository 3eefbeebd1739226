"""The `chat` command: a single question, standard input, or a conversation in a terminal."""

import argparse
import sys
from collections.abc import Callable
from functools import partial

from rich.console import Console

from internvl_server.chat.client import AnswerError, open_client
from internvl_server.chat.conversation import ChatError, Conversation, media_part
from internvl_server.chat.session import Session
from internvl_server.chat.view import MarkdownView, PlainView, View
from internvl_server.errors import StartupError
from internvl_server.settings.loading import client_api_key

__all__ = ["chat"]


def chat(options: argparse.Namespace) -> int:
    """Ask one question or talk, and return the exit code.

    Raises:
        ChatError: The question or a file cannot be used.
        StartupError: The server cannot be reached, or the only question has no whole answer.
    """
    parts = [media_part("image", source) for source in options.image]
    parts += [media_part("video", source) for source in options.video]
    conversation = Conversation(options.system, parts)
    text = options.MESSAGE if options.MESSAGE is not None else _standard_input()
    if text is not None and not text.strip():
        raise ChatError("there is no question")
    is_terminal = sys.stdout.isatty()
    console = Console(file=sys.stdout if is_terminal else sys.stderr)
    key = client_api_key(options.api_key)
    with open_client(options.url, key, options.model, _fields(options)) as client:
        session = Session(client, conversation, _new_view(console), console)
        if text is None:
            session.run()
            return 0
        try:
            answer = session.ask(text)
        except AnswerError as err:
            raise StartupError(str(err)) from err
        if is_terminal or not answer.is_whole:
            session.summarise(answer)
    return 0


def _new_view(console: Console) -> Callable[[], View]:
    can_redraw = sys.stdout.isatty() and not console.is_dumb_terminal
    return partial(MarkdownView, console) if can_redraw else PlainView


def _fields(options: argparse.Namespace) -> dict[str, int | float]:
    given = {"max_tokens": options.max_tokens, "temperature": options.temperature}
    return {name: value for name, value in given.items() if value is not None}


def _standard_input() -> str | None:
    """All of standard input; None if it is a terminal.

    Raises:
        ChatError: It is not text.
    """
    if sys.stdin.isatty():
        return None
    try:
        return sys.stdin.buffer.read().decode().rstrip("\n")
    except UnicodeDecodeError as err:
        raise ChatError(f"standard input is not UTF-8: {err}") from err
