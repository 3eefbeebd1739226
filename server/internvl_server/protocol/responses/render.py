"""Writes the `response` object of `/v1/responses`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from internvl_server.core import Usage
from internvl_server.protocol.responses.request import ResponsesRequest
from internvl_server.protocol.responses.text_format import TextConfig
from internvl_server.protocol.responses.tools import FunctionTool

__all__ = [
    "Ending",
    "ResponseHead",
    "echoed_parameters",
    "input_tokens_json",
    "usage_json",
]

Status: TypeAlias = Literal["in_progress", "completed", "incomplete", "failed"]


@dataclass(frozen=True, slots=True)
class Ending:
    """The state of a response: its output items and usage, and the message of an error that ended it."""

    status: Status = "in_progress"
    output: Sequence[Mapping[str, Any]] = ()
    usage: Usage | None = None
    error: str | None = None
    completed_at: int | None = None


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The members of a response that are the same in every event.

    `id` is `resp_…`, `model` the served name, `created_at` Unix time in seconds, `echo` the request's
    parameters as they took effect.
    """

    id: str
    model: str
    created_at: int
    echo: Mapping[str, Any]

    def json(self, ending: Ending) -> dict[str, Any]:
        """The response object."""
        is_cut = ending.status == "incomplete"
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created_at,
            "completed_at": ending.completed_at,
            "status": ending.status,
            "model": self.model,
            "output": list(ending.output),
            "usage": usage_json(ending.usage) if ending.usage else None,
            "error": None if ending.error is None else _error_json(ending.error),
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            **self.echo,
        }


def echoed_parameters(body: ResponsesRequest) -> dict[str, Any]:
    """The parameters as they took effect: omitted ones as their defaults, unsupported ones as off."""
    return {
        "background": False,
        "frequency_penalty": body.frequency_penalty or 0.0,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": None,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "presence_penalty": body.presence_penalty or 0.0,
        "previous_response_id": None,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": body.reasoning and body.reasoning.effort, "summary": None},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": _text_json(body.text or TextConfig()),
        "tool_choice": _tool_choice_json(body),
        "tools": [_tool_json(tool) for tool in body.tools or ()],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "user": body.user,
    }


def usage_json(usage: Usage) -> dict[str, Any]:
    """OpenAI's `usage`; tokens and tiles of images are an extension of this server, named as in chat."""
    return {
        "input_tokens": usage.num_prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.num_cached_tokens,
            "cache_write_tokens": 0,
            "image_tokens": usage.num_image_tokens,
            "text_tokens": usage.num_prompt_tokens - usage.num_image_tokens,
            "images": [{"tiles": i.num_tiles, "tokens": i.num_tokens} for i in usage.images],
        },
        "output_tokens": usage.num_completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.num_reasoning_tokens},
        "total_tokens": usage.num_prompt_tokens + usage.num_completion_tokens,
    }


def input_tokens_json(usage: Usage) -> dict[str, Any]:
    """OpenAI's count of a request's input; the details, an extension of this server, are as in `usage`."""
    counts = usage_json(usage)
    names = ("input_tokens", "input_tokens_details")
    return {"object": "response.input_tokens", **{name: counts[name] for name in names}}


def _error_json(message: str) -> dict[str, Any]:
    """An error after the first event, which is always the server's."""
    return {"code": "server_error", "message": message}


def _text_json(text: TextConfig) -> dict[str, Any]:
    text_format = {"type": "text"}
    if text.format is not None:
        text_format = text.format.model_dump(exclude_none=True)
    return {"format": text_format, "verbosity": "medium"}


def _tool_choice_json(body: ResponsesRequest) -> Any:  # noqa: ANN401  (any JSON value)
    if body.tool_choice is None or isinstance(body.tool_choice, str):
        return body.tool_choice or "auto"
    return body.tool_choice.model_dump()


def _tool_json(tool: FunctionTool) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": bool(tool.strict),
    }
