"""Puts the results of tools in the order of their calls.

Prompt formats show no ids of calls: the n-th result belongs to the n-th call. Clients send results in any
order, and say by ids which call each belongs to.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, takewhile

from internvl_server.core import Conversation, Message, ToolCall

__all__ = ["order_results"]


def order_results(conversation: Conversation) -> Conversation:
    """Sort the results after each assistant's turn by their calls; those of unknown calls come last."""
    ordered: list[Message] = []
    for are_results, group in groupby(conversation.messages, key=lambda m: m.role == "tool"):
        messages = list(group)
        ordered += _sorted(messages, _calls_before(ordered)) if are_results else messages
    if tuple(ordered) == conversation.messages:
        return conversation
    return replace(conversation, messages=tuple(ordered))


def _calls_before(messages: Sequence[Message]) -> list[ToolCall]:
    """The calls of the last turn, which some clients send as one message per call."""
    turn = list(takewhile(lambda message: message.role == "assistant", reversed(messages)))
    return [call for message in reversed(turn) for call in message.tool_calls]


def _sorted(results: Iterable[Message], calls: Iterable[ToolCall]) -> list[Message]:
    ids = [call.id for call in calls]
    positions: Mapping[str | None, int] = {call_id: i for i, call_id in enumerate(ids)}
    return sorted(results, key=lambda result: positions.get(result.tool_call_id, len(ids)))
