"""Bodies of any JSON are parsed or refused, on every endpoint that has a body."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from internvl_server.errors import ServerError
from internvl_server.protocol.chat.request import CHAT_FIELDS, parse_chat_request
from internvl_server.protocol.completions.request import (
    COMPLETION_FIELDS,
    parse_completion_request,
)
from internvl_server.protocol.fields import FieldTable
from internvl_server.protocol.messages.parse import parse_messages_request
from internvl_server.protocol.messages.request import MESSAGES_FIELDS
from internvl_server.protocol.responses.parse import parse_responses_request
from internvl_server.protocol.responses.request import RESPONSES_FIELDS
from internvl_server.settings import LimitSettings, MediaSettings

from tests.fuzz.budgets import budget

MEDIA = MediaSettings()
PARSERS: dict[str, tuple[Callable[..., Any], FieldTable]] = {
    "chat": (partial(parse_chat_request, media=MEDIA), CHAT_FIELDS),
    "completions": (parse_completion_request, COMPLETION_FIELDS),
    "messages": (partial(parse_messages_request, media=MEDIA), MESSAGES_FIELDS),
    "responses": (partial(parse_responses_request, media=MEDIA), RESPONSES_FIELDS),
}
WORDS = st.sampled_from(
    [
        "user",
        "assistant",
        "system",
        "tool",
        "text",
        "image_url",
        "input_text",
        "input_image",
        "image",
        "function",
        "function_call",
        "message",
        "json_schema",
        "auto",
        "required",
        "none",
        "x",
        "",
        "role",
        "content",
        "type",
        "url",
        "name",
        "parameters",
        "arguments",
        "data:,",
        "base64",
        "source",
        "tool_use",
        "tool_result",
        "enabled",
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | WORDS
    | st.text(st.characters(), max_size=5)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=12,
)
GOOD = {
    "model": "m",
    "prompt": "x",
    "input": "x",
    "max_tokens": 5,
    "messages": [{"role": "user", "content": "x"}],
}


@pytest.mark.parametrize("name", PARSERS)
@budget(100, 1000)
@given(data=st.data(), base=st.booleans(), is_lenient=st.booleans())
def test_bodies_are_parsed_or_refused(
    name: str, data: st.DataObject, base: bool, is_lenient: bool
) -> None:
    parse, table = PARSERS[name]
    fields = sorted({*table.implemented, *table.refused, *table.bookkeeping, *table.foreign})
    drawn = data.draw(st.dictionaries(st.sampled_from(fields) | WORDS, VALUES, max_size=6))
    body = json.dumps({k: v for k, v in GOOD.items() if base and k in fields} | drawn)
    try:
        parsed = parse(
            body.encode("utf-8", "surrogatepass"), LimitSettings(), ignore_unknown=is_lenient
        )
    except ServerError:
        return
    assert parsed.sampling is not None
