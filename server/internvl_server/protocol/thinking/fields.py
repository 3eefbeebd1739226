"""The fields about reasoning. Every dialect has those of the others as extensions."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator

from internvl_server.protocol.fields import Extension, Foreign
from internvl_server.protocol.fields.neutral import is_off, to_switch
from internvl_server.protocol.wire import Wire

__all__ = ["ReasoningFields", "ThinkingFields"]

# Reasoning has no budget and no summary here.
_UNUSED = Foreign(is_known=True)


def _effort(value: Any) -> Any:  # noqa: ANN401  (any JSON value)
    return "none" if value is not None and is_off(value) else value


Effort: TypeAlias = Annotated[
    Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"],
    BeforeValidator(_effort),
]


class ReasoningOptions(Wire):
    """OpenAI's `reasoning`, with OpenRouter's `enabled`, `exclude` and `max_tokens`."""

    foreign: ClassVar[Mapping[str, Foreign]] = {
        "context": _UNUSED,
        "generate_summary": _UNUSED,
        "max_tokens": _UNUSED,
        "mode": _UNUSED,
        "summary": _UNUSED,
    }

    effort: Effort | None = None
    enabled: bool | None = None
    exclude: bool | None = None

    @property
    def is_wanted(self) -> bool | None:
        """Whether the answer begins with reasoning; None leaves it to the server."""
        if self.enabled is not None or self.effort is None:
            return self.enabled
        return self.effort != "none"


class ThinkingOptions(Wire):
    """Anthropic's `thinking`."""

    foreign: ClassVar[Mapping[str, Foreign]] = {
        "budget_tokens": _UNUSED,
        "clear_thinking": Foreign(neutral=(True,)),
    }

    type: Literal["enabled", "disabled", "adaptive", "auto"] | None = None
    display: Literal["summarized", "omitted"] | None = None

    @property
    def is_wanted(self) -> bool | None:
        """Whether the answer begins with reasoning; None leaves it to the server."""
        return {"enabled": True, "disabled": False}.get(self.type or "")


def _to_reasoning(value: Any) -> Any:  # noqa: ANN401  (any JSON value)
    if isinstance(value, bool):
        return {"enabled": value}
    if isinstance(value, dict) and type(value.get("max_tokens")) is int:
        # A budget is not enforced, but asks for reasoning. Ignored members are found by their object.
        value.setdefault("effort", "medium" if value["max_tokens"] else "none")
    return {"effort": value} if isinstance(value, str) else value


def _to_thinking(value: Any) -> Any:  # noqa: ANN401  (any JSON value)
    if isinstance(value, bool) or (isinstance(value, str) and is_off(value)):
        return {"type": "disabled" if is_off(value) else "enabled"}
    return {"type": value} if isinstance(value, str) else value


class ThinkingFields(Wire):
    """Whether the answer begins with reasoning, in the ways of several APIs, which must agree."""

    enable_thinking: Annotated[bool | None, Extension(), BeforeValidator(to_switch)] = None
    """The answer begins with reasoning, if the model has a thinking mode; as in vLLM and SGLang, also in
    `chat_template_kwargs`."""
    reasoning: Annotated[
        ReasoningOptions | None,
        Extension(only_in=("chat", "messages", "tokenize")),
        BeforeValidator(_to_reasoning, json_schema_input_type=ReasoningOptions | bool | str),
    ] = None
    """`effort` as in `reasoning_effort`; `enabled`; with `exclude` the reasoning is not returned."""
    reasoning_effort: Annotated[
        Effort | None, Extension(only_in=("messages", "responses", "tokenize"))
    ] = None
    """`none`: no reasoning. `minimal` to `max`: reasoning; the effort is the model's."""
    thinking: Annotated[
        ThinkingOptions | None,
        Extension(only_in=("chat", "responses", "tokenize")),
        BeforeValidator(_to_thinking, json_schema_input_type=ThinkingOptions | bool | str),
    ] = None
    """`type`: `enabled`, `disabled`; `adaptive` and `auto` leave it to the server. `display`: `omitted`."""


class ReasoningFields(ThinkingFields):
    """How reasoning is returned."""

    include_reasoning: Annotated[bool | None, Extension()] = None
    """`false`: reasoning is generated and not returned."""
    separate_reasoning: Annotated[bool | None, Extension()] = None
    """`false`: reasoning stays in the text, with its tags."""

    @property
    def shows_reasoning(self) -> bool:
        """Whether reasoning is returned."""
        is_excluded = self.reasoning is not None and bool(self.reasoning.exclude)
        is_omitted = self.thinking is not None and self.thinking.display == "omitted"
        return self.include_reasoning is not False and not is_excluded and not is_omitted
