from typing import Any, get_args, get_type_hints

import pytest
from anthropic.types import content_block_param, message_create_params, tool_result_block_param
from anthropic.types.beta import (
    beta_content_block_param,
    beta_tool_result_block_param,
)
from anthropic.types.beta import message_count_tokens_params as beta_count_params
from anthropic.types.beta import message_create_params as beta_create_params
from internvl_server.errors import UnsupportedParameterError
from internvl_server.protocol.fields import known_fields
from internvl_server.protocol.messages.request import COUNT_FIELDS, MESSAGES_FIELDS
from internvl_server.protocol.messages.unsupported import refuse_unsupported

# Parameters that the SDK sends as headers.
HEADERS = {"betas", "workspace_id"}
SDK_PARAMS = {
    "stream",
    *message_create_params.MessageCreateParamsBase.__annotations__,
    *beta_create_params.MessageCreateParamsBase.__annotations__,
    "output_format",
} - HEADERS
# Fields of older versions, and of the API at other providers, which the body has instead of headers.
OTHER_PARAMS = {"anthropic_beta", "anthropic_version", "temperature", "top_k", "top_p"}
TAKEN = {
    "document",
    "image",
    "redacted_thinking",
    "search_result",
    "text",
    "thinking",
    "tool_addition",
    "tool_reference",
    "tool_removal",
    "tool_result",
    "tool_use",
}
NOT_NEUTRAL: dict[str, Any] = {
    "compaction": {"enabled": True},
    "container": "c",
    "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]},
    "mcp_servers": [{"type": "url"}],
    "thread": {"id": "t"},
}


def types_of(union: Any) -> set[str]:
    """The `type` literals of a union of the SDK's typed dicts."""
    found: set[str] = set()
    for member in get_args(union):
        if get_args(member):
            continue  # the objects of answers, which have the same types
        hint = str(get_type_hints(member, include_extras=False).get("type"))
        literal = hint.split("Literal[")[-1].split("]")[0]
        found |= {name.strip("'\" ") for name in literal.split(",")}
    return found


def test_every_parameter_of_the_installed_sdk_is_in_one_group() -> None:
    implemented = MESSAGES_FIELDS.implemented - MESSAGES_FIELDS.extensions
    groups = [implemented, MESSAGES_FIELDS.bookkeeping, set(MESSAGES_FIELDS.refused)]
    assert set().union(*groups) == SDK_PARAMS | OTHER_PARAMS
    assert sum(map(len, groups)) == len(SDK_PARAMS | OTHER_PARAMS)
    assert not MESSAGES_FIELDS.extensions & SDK_PARAMS


def test_every_parameter_of_counting_is_known() -> None:
    params = set(beta_count_params.MessageCountTokensParams.__annotations__) - HEADERS
    known = COUNT_FIELDS.implemented | COUNT_FIELDS.bookkeeping | set(COUNT_FIELDS.refused)
    assert params <= known


@pytest.mark.parametrize("name", sorted(MESSAGES_FIELDS.refused))
def test_refused_fields_are_named_unless_they_ask_for_nothing(name: str) -> None:
    with pytest.raises(UnsupportedParameterError) as caught:
        known_fields({name: NOT_NEUTRAL[name]}, MESSAGES_FIELDS)
    assert caught.value.param == name
    for neutral in (None, *MESSAGES_FIELDS.refused[name]):
        assert known_fields({name: neutral}, MESSAGES_FIELDS) == ({}, ())


BLOCKS = types_of(content_block_param.ContentBlockParam) | types_of(
    beta_content_block_param.BetaContentBlockParam
)
PARTS = types_of(tool_result_block_param.Content) | types_of(beta_tool_result_block_param.Content)


@pytest.mark.parametrize("kind", sorted(BLOCKS | PARTS))
def test_every_block_of_the_installed_sdk_is_implemented_or_refused_by_name(kind: str) -> None:
    block = {"type": kind}
    result = {"type": "tool_result", "content": [block]}
    for content in ([block], [result]):
        fields = {"messages": [{"role": "user", "content": content}]}
        if kind in TAKEN:
            refuse_unsupported(fields)
            continue
        with pytest.raises(UnsupportedParameterError) as caught:
            refuse_unsupported(fields)
        assert kind in caught.value.message
