"""InternVL3.5's thinking mode: whether an answer begins with reasoning, and what the prompt says about it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Literal, TypeAlias

from internvl_server.core import AnswerStart, Conversation, Message, TextPart, Thinking
from internvl_server.errors import StartupError, UnsupportedParameterError
from internvl_server.prompt.segments import Control, Segment

__all__ = [
    "THINKING_SYSTEM_TEXT",
    "ThinkingMode",
    "answer_start",
    "with_thinking_text",
    "without_reasoning",
]

Setting: TypeAlias = Literal["auto", "on", "off"]

_BEGIN, _END = "<think>", "</think>"
_TURN, _TURN_END = Control("<|im_start|>"), Control("<|im_end|>")

# The system text that InternVL3.5's model card gives for its thinking mode.
THINKING_SYSTEM_TEXT = """\
You are an AI assistant that rigorously follows this response protocol:

1. First, conduct a detailed analysis of the question. Consider different angles, potential solutions, and \
reason through the problem step-by-step. Enclose this entire thinking process within <think> and </think> \
tags.

2. After the thinking section, provide a clear, concise, and direct answer to the user's question. Separate \
the answer from the think section with a newline.

Ensure that the thinking process is thorough but remains focused on the query. The final answer should be \
standalone and not reference the thinking section."""


@dataclass(frozen=True, slots=True)
class ThinkingMode:
    """What a model and its settings allow.

    `can_think` is true if the model has tokens for reasoning and the settings do not turn it off;
    `by_default` if answers begin with reasoning unless a request says otherwise.
    """

    can_think: bool = False
    by_default: bool = False

    @classmethod
    def of(cls, setting: Setting, *, has_tokens: bool) -> "ThinkingMode":
        """The mode of a model that has tokens for reasoning, or has none.

        Raises:
            StartupError: The setting needs the tokens.
        """
        if setting == "on" and not has_tokens:
            raise StartupError(
                f"model.thinking is 'on', but the checkpoint's tokenizer has no {_BEGIN} and {_END}."
            )
        return cls(has_tokens and setting != "off", setting == "on")

    def resolve(self, thinking: Thinking) -> tuple[bool, tuple[str, ...]]:
        """Whether an answer begins with reasoning, and sentences about a wish that is not followed.

        Raises:
            UnsupportedParameterError: The request wants reasoning, and the model has none.
        """
        if thinking.is_wanted and not self.can_think:
            raise UnsupportedParameterError(
                f"'{thinking.param}' is not supported by this server. The model does not reason apart from "
                "its answer; leave it out.",
                param=thinking.param,
            )
        is_on = self.by_default if thinking.is_wanted is None else thinking.is_wanted
        if not is_on or not thinking.excluded_by:
            return is_on, ()
        name = thinking.excluded_by
        return False, (f"The answer has no reasoning: '{name}' says what all of it must be.",)


def with_thinking_text(conversation: Conversation) -> Conversation:
    """Put the system text of the thinking mode first, as in the model card instead of the default one.

    A system message of the client follows it, unless it asks for the tags itself.
    """
    first, *rest = conversation.messages
    if first.role != "system":
        return _with_messages(
            conversation, [Message("system", (TextPart(THINKING_SYSTEM_TEXT),)), first, *rest]
        )
    if any(isinstance(part, TextPart) and _BEGIN in part.text for part in first.content):
        return conversation
    content = (TextPart(f"{THINKING_SYSTEM_TEXT}\n\n"), *first.content)
    return _with_messages(conversation, [replace(first, content=content), *rest])


def without_reasoning(conversation: Conversation) -> Conversation:
    """Leave the reasoning out of earlier answers, as the chat template of Qwen3 does.

    An answer that is continued keeps what it has begun with.
    """
    messages = list(conversation.messages)
    last = messages.pop() if conversation.continue_final_message else None
    kept = [_without_reasoning(m) if m.role == "assistant" else m for m in messages]
    if kept == messages:
        return conversation
    return _with_messages(conversation, [*kept, last] if last else kept)


def _without_reasoning(message: Message) -> Message:
    texts = list(takewhile(lambda part: isinstance(part, TextPart), message.content))
    written = "".join([part.text for part in texts if isinstance(part, TextPart)])
    _, tag, text = written.partition(_END)
    if not tag or not written.lstrip().startswith(_BEGIN):
        return message
    rest = message.content[len(texts) :]
    return replace(message, content=(TextPart(text.lstrip("\r\n")), *rest))


def _with_messages(conversation: Conversation, messages: Iterable[Message]) -> Conversation:
    return replace(conversation, messages=tuple(messages))


def answer_start(segments: Sequence[Segment], thinking: Thinking) -> AnswerStart:
    """What an answer may begin with, from what the prompt has after the beginning of its last turn.

    Reasoning that the prompt has begun does not go on where a field says what all of the answer must be.
    """
    last = list(takewhile(lambda segment: segment != _TURN, reversed(segments)))
    written = "".join([segment for segment in reversed(last) if isinstance(segment, str)])
    begun = written.removeprefix("assistant").lstrip()
    if not begun:
        return "anything"
    is_open = begun.startswith(_BEGIN) and _END not in begun and _TURN_END not in last
    return "reasoning" if is_open and not thinking.excluded_by else "text"
