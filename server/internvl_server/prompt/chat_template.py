"""The checkpoint's own Jinja chat template, with user text kept out of it.

The template is rendered once a request with a placeholder wherever a user's text or an image stands;
the result is cut at the placeholders and at the control tokens the template itself wrote. So a template
may say whatever it likes around the text, and the text still cannot become control tokens.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from internvl_server.core import Conversation, Message
from internvl_server.errors import (
    Field,
    InvalidRequestError,
    StartupError,
    UnsupportedParameterError,
)
from internvl_server.prompt.placeholders import Placeholders, to_json
from internvl_server.prompt.segments import Control, Segment
from internvl_server.prompt.template import ImageNumbering, content_segments

__all__ = ["CheckpointTemplate", "load_checkpoint_template"]


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
        environment.filters["tojson"] = to_json
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
        held = Placeholders(self._control_pattern)
        images = ImageNumbering(conversation)
        messages = [_message(message, images, held) for message in conversation.messages]
        goes_on = conversation.continue_final_message
        end = held.hold("") if goes_on else ""
        messages[-1]["content"] += end
        text = self._rendered(
            messages=messages,
            tools=[held.hold_tool(tool) for tool in conversation.tools] or None,
            add_generation_prompt=conversation.add_generation_prompt and not goes_on,
        )
        _check_shown(text, held, conversation)
        if goes_on:
            if end not in text:
                _refuse("the end of the last message", "continue_final_message")
            text = text[: text.rindex(end)]
        return list(self._segments(text, held))

    def _rendered(self, **variables: object) -> str:
        try:
            return self._template.render(variables)
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as err:
            raise InvalidRequestError(
                "The model's chat template does not accept this order of messages.",
                param=Field.PROMPT,
            ) from err

    def _segments(self, text: str, held: Placeholders) -> Iterator[Segment]:
        for written, segment in held.cut(text):
            yield from self._literal(written)
            yield segment

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


def _message(message: Message, images: ImageNumbering, held: Placeholders) -> dict[str, Any]:
    """The message as the template sees it."""
    segments = content_segments(message.content, images)
    shown: dict[str, Any] = {
        "role": message.role,
        "content": "".join(held.hold(segment) for segment in segments if segment),
    }
    if message.tool_calls:
        shown["tool_calls"] = [held.hold_call(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        shown["tool_call_id"] = held.hold_text(message.tool_call_id)
    return shown


def _check_shown(text: str, held: Placeholders, conversation: Conversation) -> None:
    """Refuse tools and calls that the template leaves out: the model would not know of them."""
    if not held.shows_all(text, [tool.name for tool in conversation.tools]):
        _refuse("tools", Field.TOOLS)
    calls = [call for message in conversation.messages for call in message.tool_calls]
    if not held.shows_all(text, [call.name for call in calls]):
        _refuse("tool calls", Field.PROMPT)


def _refuse(what: str, param: str | Field) -> NoReturn:
    raise UnsupportedParameterError(
        f"The chat template of this model's checkpoint does not show {what}.", param=param
    )


def _raise_exception(message: str) -> None:
    """What chat templates call to refuse a conversation."""
    raise TemplateError(message)
