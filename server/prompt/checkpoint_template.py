"""The checkpoint's own Jinja chat template, with user text kept out of it.

The template is rendered once a request with a private-use placeholder wherever a user's text or an
image stands; the result is cut at the placeholders and at the control tokens the template itself wrote.
So a template may say whatever it likes around the text, and the text still cannot become control tokens.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from server.core import Conversation, Message
from server.errors import InvalidRequestError, StartupError
from server.prompt.template import Control, ImageNumbering, Segment, content_segments

__all__ = ["CheckpointTemplate", "load_checkpoint_template"]

# U+E000… are for private use; a user's own are never looked at, because user text is not rendered.
_PLACEHOLDER = re.compile("\ue000(\\d+)\ue001")


class CheckpointTemplate:
    """Renders with the checkpoint's template; user texts and images pass it as placeholders.

    Args:
        source: Jinja source.
        control_pattern: Matches the control tokens the template may write.
    """

    name = "checkpoint"

    def __init__(self, source: str, control_pattern: re.Pattern[str]) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise_exception
        try:
            self._template = environment.from_string(source)
        except TemplateError as err:
            raise StartupError(f"The checkpoint's chat template is not valid: {err}") from err
        self._control_pattern = control_pattern

    def render(self, conversation: Conversation) -> list[Segment]:
        """Segments of the whole prompt.

        Raises:
            InvalidRequestError: The template does not accept this conversation.
        """
        held: list[Segment] = []
        images = ImageNumbering(conversation)
        messages = [_hold(message, images, held) for message in conversation.messages]
        try:
            text = self._template.render(messages=messages, add_generation_prompt=True)
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as err:
            raise InvalidRequestError(
                "The model's chat template does not accept this order of messages.",
                param="messages",
            ) from err
        return list(self._segments(text, held))

    def _segments(self, text: str, held: list[Segment]) -> Iterator[Segment]:
        for index, piece in enumerate(_PLACEHOLDER.split(text)):
            if index % 2:
                yield held[int(piece)]
            else:
                yield from self._literal(piece)

    def _literal(self, text: str) -> Iterator[Segment]:
        end = 0
        for match in self._control_pattern.finditer(text):
            yield text[end : match.start()]
            yield Control(match.group())
            end = match.end()
        yield text[end:]


def load_checkpoint_template(folder: Path, control_pattern: re.Pattern[str]) -> CheckpointTemplate:
    """Read chat_template.jinja, or `chat_template` of tokenizer_config.json.

    Raises:
        StartupError: The checkpoint has neither, or it is not valid Jinja.
    """
    path = folder / "chat_template.jinja"
    if path.exists():
        return CheckpointTemplate(path.read_text(encoding="utf-8"), control_pattern)
    config = folder / "tokenizer_config.json"
    source = (
        json.loads(config.read_text(encoding="utf-8")).get("chat_template")
        if config.exists()
        else None
    )
    if not isinstance(source, str):
        raise StartupError(
            "model.template is 'checkpoint', but the checkpoint has no chat template. "
            "Set it to 'internvl2_5'."
        )
    return CheckpointTemplate(source, control_pattern)


def _hold(message: Message, images: ImageNumbering, held: list[Segment]) -> dict[str, str]:
    """The message as the template sees it: every part a placeholder for `held[index]`."""
    content = ""
    for segment in content_segments(message.content, images):
        content += f"\ue000{len(held)}\ue001"
        held.append(segment)
    return {"role": message.role, "content": content}


def _raise_exception(message: str) -> None:
    """What chat templates call to refuse a conversation."""
    raise TemplateError(message)
