"""Reasoning before the answer, in every dialect: the request's fields, and what they ask for."""

from internvl_server.protocol.thinking.convert import with_thinking
from internvl_server.protocol.thinking.fields import ReasoningFields, ThinkingFields

__all__ = ["ReasoningFields", "ThinkingFields", "with_thinking"]
