"""A conversation in a terminal, or a single question: commands, answers, and what is said about them."""

import contextlib
import shlex
import sys
from collections.abc import Callable
from typing import Literal

from rich.console import Console
from rich.text import Text

from internvl_server.chat.client import Answer, AnswerError, Client
from internvl_server.chat.conversation import ChatError, Conversation, find_file, media_part
from internvl_server.chat.view import View
from internvl_server.telemetry.terminal import without_controls

# It gives `input` a line editor. Some builds of Python have none.
with contextlib.suppress(ImportError):
    import readline

    readline.parse_and_bind("tab: complete")  # of paths, where no completer is set
    readline.set_completer_delims(" ")

__all__ = ["Session"]

_HELP = """\
/image PATH_OR_URL …  attach images to the next question
/video PATH_OR_URL …  attach videos to the next question
/system TEXT          set the system message; without TEXT: remove it
/reset                start again, with the same system message
/undo                 drop what is attached, or else the last question and its answer
/help                 this list
/quit                 end, as Ctrl-D does

Ctrl-C stops an answer, and ends at the prompt. A line that ends with \\ goes on in the next one.
A question that begins with / needs a space before it."""


class Session:
    """Asks questions.

    Args:
        client: Where they are sent.
        conversation: What they continue.
        new_view: Makes the view of an answer.
        console: Where everything but plain answers goes.
    """

    def __init__(
        self,
        client: Client,
        conversation: Conversation,
        new_view: Callable[[], View],
        console: Console,
    ) -> None:
        self._client, self._conversation = client, conversation
        self._new_view, self._console = new_view, console

    def run(self) -> None:
        """Ask what is typed, until /quit, Ctrl-C at the prompt, or the end of the input."""
        self._say(f"{self._client.model}. /help lists the commands.")
        while True:
            try:
                line = self._read()
                if line is None or line.strip() == "/quit":
                    return
                if line.startswith("/"):
                    self._obey(line)
                elif line.strip():
                    self._ask_until_stopped(line.strip())
            except (AnswerError, ChatError) as err:
                self._say(str(err), style="red")

    def ask(self, text: str) -> Answer:
        """Ask one question, show its answer, and keep both.

        An answer that is stopped by a KeyboardInterrupt is kept as far as it has come.

        Raises:
            AnswerError: There is no answer, or not all of it; neither it nor the question is kept.
        """
        question = self._conversation.question(text)
        answer = Answer()
        try:
            with self._new_view() as view:
                self._client.ask(self._conversation.messages(question), answer, view.show)
        except KeyboardInterrupt:
            if answer.text:
                self._conversation.add(question, answer.text)
            raise
        self._conversation.add(question, answer.text)
        return answer

    def _ask_until_stopped(self, text: str) -> None:
        try:
            self.summarise(self.ask(text))
        except KeyboardInterrupt:
            self._say("stopped")

    def summarise(self, answer: Answer) -> None:
        """Print one line about an answer: tokens, time to the first, tokens per second."""
        parts = []
        if answer.num_output is not None:
            prompt = "" if answer.num_input is None else f"{answer.num_input:,} + "
            parts.append(f"{prompt}{answer.num_output:,} tokens")
        if answer.first_s is not None:
            parts.append(f"first after {answer.first_s - answer.sent_s:.2f} s")
            seconds = answer.last_s - answer.first_s
            if seconds and answer.num_output is not None and answer.num_output > 1:
                parts.append(f"{(answer.num_output - 1) / seconds:.1f} tokens/s")
        if not answer.is_whole:
            parts.append(f"ended by {answer.ended_by}")
        self._say(", ".join(parts))

    def _read(self) -> str | None:
        """A line, or several that are joined by a backslash; None at the end.

        Raises:
            ChatError: It is not text.
        """
        lines: list[str] = []
        try:
            while True:
                lines.append(self._input("> " if not lines else "… "))
                if not lines[-1].endswith("\\"):
                    return "\n".join(line.removesuffix("\\") for line in lines)
        except (EOFError, KeyboardInterrupt):
            self._console.line()
            return None
        except UnicodeDecodeError as err:
            raise ChatError(f"the line is not UTF-8: {err}") from err

    def _input(self, prompt: str) -> str:
        if sys.stdout.isatty():
            return input(prompt)  # not rich's, whose prompt the line editor does not know
        self._console.print(prompt, end="")
        return input()

    def _obey(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        match name:
            case "/image" | "/video":
                self._attach("image" if name == "/image" else "video", rest.strip())
            case "/system":
                self._conversation.system = rest.strip()
                self._say("set" if rest.strip() else "removed")
            case "/reset":
                self._conversation.reset()
                self._say("a new conversation")
            case "/undo":
                self._say(f"dropped {self._conversation.undo()}")
            case "/help":
                self._say(_HELP)
            case _:
                raise ChatError(f"there is no command {name}; /help lists them")

    def _attach(self, kind: Literal["image", "video"], rest: str) -> None:
        sources = _words(rest)
        if not sources:
            raise ChatError(f"write /{kind} PATH_OR_URL …")
        self._conversation.attachments += [media_part(kind, source) for source in sources]
        number = len(self._conversation.attachments)
        self._say(f"{number} attached to the next question")

    def _say(self, text: str, style: str = "dim") -> None:
        self._console.print(Text(without_controls(text), style=style))


def _words(text: str) -> list[str]:
    """The paths of a line: the whole of it if that is a file, or else words as a shell reads them."""
    if find_file(text):
        return [text]
    try:
        return shlex.split(text)
    except ValueError as err:
        raise ChatError(f"{err} in {text}") from err
