"""Converts the fields about reasoning."""

from dataclasses import replace

from internvl_server.core import Constraint, Conversation, Thinking, ToolCalls
from internvl_server.errors import InvalidRequestError
from internvl_server.protocol.thinking.fields import ThinkingFields

__all__ = ["with_thinking"]


def with_thinking(
    conversation: Conversation, fields: ThinkingFields, constraint: Constraint | None
) -> Conversation:
    """A conversation that says whether its answer begins with reasoning.

    Args:
        conversation: The request's.
        fields: The request's.
        constraint: What the answer must be. Unless it allows any text, it leaves no place for reasoning.

    Raises:
        InvalidRequestError: Two fields contradict each other.
    """
    thinking = _thinking(fields, constraint)
    is_default = thinking == conversation.thinking
    return conversation if is_default else replace(conversation, thinking=thinking)


def _thinking(fields: ThinkingFields, constraint: Constraint | None) -> Thinking:
    effort = fields.reasoning_effort
    wishes = {
        "enable_thinking": fields.enable_thinking,
        "reasoning": fields.reasoning.is_wanted if fields.reasoning else None,
        "reasoning_effort": None if effort is None else effort != "none",
        "thinking": fields.thinking.is_wanted if fields.thinking else None,
    }
    given = [(name, wish) for name, wish in wishes.items() if wish is not None]
    for name, wish in given[1:]:
        if wish != given[0][1]:
            raise InvalidRequestError(
                f"'{given[0][0]}' and '{name}' differ. Give one of them.", param=name
            )
    is_hint = isinstance(constraint, ToolCalls) and constraint.is_hint
    excluded_by = "" if constraint is None or is_hint else constraint.param
    param, is_wanted = given[0] if given else ("", None)
    return Thinking(is_wanted, param, excluded_by)
