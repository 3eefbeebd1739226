"""From the bytes of a request to what is asked in our words.

One step, because all of it takes time that grows with the body: for large ones it belongs in a thread.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

from internvl_server.core import AnswerParams, Conversation, SamplingParams
from internvl_server.protocol import sampling
from internvl_server.protocol.chat.convert import to_conversation
from internvl_server.protocol.chat.request import ChatCompletionRequest, parse_chat_request
from internvl_server.protocol.responses import convert as responses_convert
from internvl_server.protocol.responses.request import (
    InputTokensRequest,
    ResponsesRequest,
    parse_input_tokens_request,
    parse_responses_request,
)
from internvl_server.protocol.wire import Wire
from internvl_server.settings import LimitSettings, MediaSettings

__all__ = [
    "ParsedRequest",
    "read_chat_request",
    "read_input_tokens_request",
    "read_responses_request",
]

Body = TypeVar("Body", bound=Wire)


@dataclass(frozen=True, slots=True)
class ParsedRequest(Generic[Body]):
    """A valid request: its body, the same in our words, and the JSON paths of what was ignored in it."""

    body: Body
    conversation: Conversation
    sampling: SamplingParams
    answer: AnswerParams
    ignored: tuple[str, ...]


def read_chat_request(
    body: bytes, limits: LimitSettings, *, ignore_unknown: bool, media: MediaSettings
) -> ParsedRequest[ChatCompletionRequest]:
    """A request of `/v1/chat/completions`; raises like `parse_chat_request` and the conversions."""
    parsed = parse_chat_request(body, limits, ignore_unknown=ignore_unknown)
    return ParsedRequest(
        parsed.body,
        to_conversation(parsed.body, media),
        sampling.to_sampling_params(parsed.body),
        sampling.to_answer_params(parsed.body),
        parsed.ignored,
    )


def read_responses_request(
    body: bytes, limits: LimitSettings, *, ignore_unknown: bool
) -> ParsedRequest[ResponsesRequest]:
    """A request of `/v1/responses`; raises like `parse_responses_request` and the conversions."""
    parsed = parse_responses_request(body, limits, ignore_unknown=ignore_unknown)
    return ParsedRequest(
        parsed.body,
        responses_convert.to_conversation(parsed.body),
        responses_convert.to_sampling_params(parsed.body),
        responses_convert.to_answer_params(parsed.body),
        parsed.ignored,
    )


def read_input_tokens_request(
    body: bytes, limits: LimitSettings, *, ignore_unknown: bool
) -> ParsedRequest[InputTokensRequest]:
    """As `read_responses_request`, of `/v1/responses/input_tokens`."""
    parsed = parse_input_tokens_request(body, limits, ignore_unknown=ignore_unknown)
    return ParsedRequest(
        parsed.body,
        responses_convert.to_conversation(parsed.body),
        SamplingParams(constraint=responses_convert.to_constraint(parsed.body)),
        AnswerParams(tool_choice=responses_convert.to_choice(parsed.body)),
        parsed.ignored,
    )
