"""The checkpoint's Jinja chat template, rendered without client text.

A conversation is rendered with a placeholder for each text and image of the client. The result is split
at the placeholders and at the control tokens of the template itself, so that client text cannot become a
control token, whatever the template writes around it.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError

from internvl_server.core import Conversation, Message
from internvl_server.errors import (
    Field,
    InvalidRequestError,
    StartupError,
    UnsupportedParameterError,
)
from internvl_server.prompt.checkpoint.placeholders import Placeholders, to_json
from internvl_server.prompt.checkpoint.sandbox import BoundedSandbox, TemplateLimitError, render
from internvl_server.prompt.segments import Control, Segment
from internvl_server.prompt.template import ImageNumbering, content_segments

__all__ = ["CheckpointTemplate", "load_checkpoint_template"]


class CheckpointTemplate:
    """Renders with the checkpoint's template; it gets client texts and images as placeholders.

    Templates that can begin an answer with reasoning, as Qwen3's, have a variable `enable_thinking` for it.

    Args:
        source: Jinja source.
        control_pattern: Matches the control tokens the template may write.
    """

    name = "checkpoint"

    def __init__(self, source: str, control_pattern: re.Pattern[str]) -> None:
        environment = BoundedSandbox()
        environment.globals["raise_exception"] = _raise_exception
        environment.filters["tojson"] = to_json
        try:
            self._template = environment.bounded(source)
        except TemplateError as err:
            raise StartupError(f"The checkpoint's chat template is not valid: {err}") from err
        self._control_pattern = control_pattern
        self.has_thinking_switch = "enable_thinking" in source

    def render(self, conversation: Conversation) -> list[Segment]:
        """Segments of the whole prompt.

        Raises:
            InvalidRequestError: The template does not accept this conversation.
        """
        placeholders = Placeholders(self._control_pattern)
        images = ImageNumbering(conversation)
        messages = [_message(message, images, placeholders) for message in conversation.messages]
        is_continued = conversation.continue_final_message
        end = placeholders.protect("") if is_continued else ""
        messages[-1]["content"] += end
        text = self._rendered(
            messages=messages,
            tools=[placeholders.protect_tool(tool) for tool in conversation.tools] or None,
            add_generation_prompt=conversation.add_generation_prompt and not is_continued,
            enable_thinking=conversation.thinking.is_wanted is True,
        )
        _check_rendered(text, placeholders, conversation)
        if is_continued:
            if end not in text:
                _refuse("the end of the last message", "continue_final_message")
            text = text[: text.rindex(end)]
        return list(self._segments(text, placeholders))

    def _rendered(self, **variables: object) -> str:
        try:
            return render(self._template, variables)
        except TemplateLimitError as err:
            raise InvalidRequestError(
                "The model's chat template has too much work with this conversation. Shorten it.",
                param=Field.PROMPT,
            ) from err
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as err:
            raise InvalidRequestError(
                "The model's chat template does not accept this order of messages.",
                param=Field.PROMPT,
            ) from err

    def _segments(self, text: str, placeholders: Placeholders) -> Iterator[Segment]:
        for written, segment in placeholders.split(text):
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


def _message(
    message: Message, images: ImageNumbering, placeholders: Placeholders
) -> dict[str, Any]:
    """A message in the form that templates expect."""
    segments = content_segments(message.content, images)
    rendered: dict[str, Any] = {
        "role": message.role,
        "content": "".join(placeholders.protect(segment) for segment in segments if segment),
    }
    if message.tool_calls:
        rendered["tool_calls"] = [placeholders.protect_call(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        rendered["tool_call_id"] = placeholders.protect_text(message.tool_call_id)
    return rendered


def _check_rendered(text: str, placeholders: Placeholders, conversation: Conversation) -> None:
    """Refuse tools and calls that the template does not render: the model would not see them."""
    if not placeholders.contains_all(text, [tool.name for tool in conversation.tools]):
        _refuse("tools", Field.TOOLS)
    calls = [call for message in conversation.messages for call in message.tool_calls]
    if not placeholders.contains_all(text, [call.name for call in calls]):
        _refuse("tool calls", Field.PROMPT)


def _refuse(feature: str, param: str | Field) -> NoReturn:
    raise UnsupportedParameterError(
        f"The chat template of this model's checkpoint does not show {feature}.", param=param
    )


def _raise_exception(message: str) -> None:
    """The function that chat templates call to refuse a conversation."""
    raise TemplateError(message)
