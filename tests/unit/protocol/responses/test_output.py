import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from internvl_server.api.json_text import json_text
from internvl_server.core import (
    ImageUsage,
    LogprobToken,
    TextDelta,
    TextLogprobs,
    ToolCallDelta,
    Usage,
)
from internvl_server.protocol.dialects import ErrorBody
from internvl_server.protocol.responses.events import ResponseWriter
from internvl_server.protocol.responses.render import ResponseHead, echoed_parameters
from internvl_server.protocol.responses.request import ResponsesRequest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

USAGE = Usage(10, 3, num_image_tokens=4, num_cached_tokens=2, images=(ImageUsage(1, 4),))
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def writer(*, obfuscate: bool = False, **fields: Any) -> ResponseWriter:
    body = ResponsesRequest.model_validate({"model": "m", "input": "hi"} | fields)
    return ResponseWriter(
        ResponseHead("resp_1", "m", 1, echoed_parameters(body)), json_text, obfuscate=obfuscate
    )


def read(encoded: bytes) -> list[dict[str, Any]]:
    """The events of a stream, each valid as the SDK's type of that name."""
    events = []
    *frames, rest = encoded.decode().split("\n\n")
    assert rest == ""
    for frame in frames:
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        parsed = EVENT.validate_json(data.removeprefix("data: "))
        assert parsed.type == event["type"]
        events.append(event)
    return events


def stream(deltas: Sequence[TextDelta], **fields: Any) -> list[dict[str, Any]]:
    write = writer(**fields)
    frames = write.begin()
    for delta in deltas:
        frames += write.delta(delta)
    events = read(frames)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def whole(deltas: Sequence[TextDelta], **fields: Any) -> dict[str, Any]:
    write = writer(**fields)
    for delta in deltas:
        write.add(delta)
    response = write.response()
    Response.model_validate_json(json.dumps(response), strict=True)
    return response


TEXT = [TextDelta('"é\n'), TextDelta("\u2028x", "stop", USAGE)]
TWO_CALLS = [
    TextDelta("Look."),
    TextDelta("", tool_calls=(ToolCallDelta(0, "call_1", "f", '{"a"'),)),
    TextDelta("", tool_calls=(ToolCallDelta(0, arguments=":1}"), ToolCallDelta(1, "call_2", "g"))),
    TextDelta("", "tool_calls", USAGE, tool_calls=(ToolCallDelta(1, arguments="{}"),)),
]


def test_the_events_of_a_text() -> None:
    events = stream(TEXT)
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    created, _, added, part, first, *_, done, part_done, item_done, completed = events
    assert created["response"]["status"] == "in_progress"
    assert created["response"]["output"] == []
    assert created["response"]["usage"] is None
    assert added["item"]["content"] == []
    assert added["item"]["status"] == "in_progress"
    assert (part["part"]["text"], first["delta"]) == ("", '"é\n')
    assert done["text"] == part_done["part"]["text"] == '"é\n\u2028x'
    assert item_done["item"] == completed["response"]["output"][0]
    assert len({e["item_id"] for e in (part, first, done)} | {added["item"]["id"]}) == 1


def test_calls_are_items_of_their_own_in_order() -> None:
    events = stream(TWO_CALLS)
    response = events[-1]["response"]
    message, first, second = response["output"]
    assert message["content"][0]["text"] == "Look."
    assert (first["call_id"], first["name"], first["arguments"]) == ("call_1", "f", '{"a":1}')
    assert (second["call_id"], second["name"], second["arguments"]) == ("call_2", "g", "{}")
    assert response["status"] == "completed"
    assert {item["status"] for item in response["output"]} == {"completed"}
    assert len({item["id"] for item in response["output"]}) == 3
    kinds = [e["type"] for e in events if e.get("output_index") == 1]
    assert kinds == [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]
    places = [e["output_index"] for e in events if "output_index" in e]
    assert places == sorted(places)


def test_an_answer_that_is_cut_is_incomplete() -> None:
    for end in (TextDelta("x", "length", USAGE), TextDelta("", "length", USAGE)):
        events = stream([TextDelta("y"), end])
        assert events[-1]["type"] == "response.incomplete"
        response = events[-1]["response"]
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}
        assert response["completed_at"] is None
        assert response["output"][0]["status"] == "incomplete"
        assert events[-2]["item"]["status"] == "incomplete"


def test_of_a_cut_answer_only_the_last_call_is_incomplete() -> None:
    half = ToolCallDelta(1, "call_2", "g", '{"a"')
    response = whole([*TWO_CALLS[:2], TextDelta("", tool_calls=(ToolCallDelta(0, arguments=":1}"),)),
                      TextDelta("", "length", USAGE, tool_calls=(half,))])  # fmt: skip
    assert [item["status"] for item in response["output"]] == ["completed"] * 2 + ["incomplete"]
    assert response["status"] == "incomplete"
    ended = whole([TextDelta("", "length", USAGE, tool_calls=(ToolCallDelta(0, "c", "f", "{}"),))])
    assert ended["output"][0]["status"] == "completed"


def test_an_empty_answer_is_an_empty_message() -> None:
    response = whole([TextDelta("", "stop", USAGE)])
    assert [item["content"][0]["text"] for item in response["output"]] == [""]


def test_an_answer_of_calls_alone_has_no_message() -> None:
    response = whole(TWO_CALLS[1:])
    assert [item["type"] for item in response["output"]] == ["function_call"] * 2


def test_a_failure_keeps_what_was_made() -> None:
    write = writer()
    read(write.begin() + write.delta(TextDelta("half")))
    [failed] = read(write.failed(ErrorBody("It broke.", "server_error", "engine_error", None)))
    response = failed["response"]
    assert failed["type"] == "response.failed"
    assert response["status"] == "failed"
    assert response["error"] == {"code": "server_error", "message": "It broke."}
    assert response["output"][0]["content"][0]["text"] == "half"
    assert response["output"][0]["status"] == "incomplete"
    assert response["usage"] is None


def test_log_probabilities_are_in_deltas_and_in_the_whole_text() -> None:
    token = LogprobToken("é", "é".encode(), -0.5)
    entry = TextLogprobs(token, (token,))
    events = stream([TextDelta("é", logprobs=(entry,)), TextDelta("", "stop", USAGE, (entry,))])
    deltas = [e for e in events if e["type"] == "response.output_text.delta"]
    assert [len(e["logprobs"]) for e in deltas] == [1, 1]
    expected = {"token": "é", "logprob": -0.5, "bytes": [0xC3, 0xA9]}
    [part] = events[-1]["response"]["output"][0]["content"]
    assert part["logprobs"] == [expected | {"top_logprobs": [expected]}] * 2


def test_usage_counts_images_as_chat_does() -> None:
    usage = whole(TEXT)["usage"]
    assert usage == {
        "input_tokens": 10,
        "input_tokens_details": {
            "cached_tokens": 2,
            "cache_write_tokens": 0,
            "image_tokens": 4,
            "text_tokens": 6,
            "images": [{"tiles": 1, "tokens": 4}],
        },
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 13,
    }


TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
FUNCTION = {"type": "function", "name": "f"}
ECHOED: dict[str, Any] = {
    "instructions": "be brief",
    "max_output_tokens": 9,
    "metadata": {"k": "v"},
    "parallel_tool_calls": False,
    "prompt_cache_key": "p",
    "safety_identifier": "s",
    "temperature": 0.0,
    "text": {
        "format": {
            "type": "json_schema",
            "name": "n",
            "schema": {"type": "object"},
            "strict": True,
        },
        "verbosity": "medium",
    },
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [FUNCTION]},
    "tools": [TOOL | {"description": None, "strict": False}],
    "top_logprobs": 2,
    "top_p": 0.5,
    "user": "u",
}


def test_parameters_are_echoed_as_they_took_effect() -> None:
    plain, full = whole(TEXT), whole(TEXT, **ECHOED)
    assert {name: full[name] for name in ECHOED} == ECHOED
    defaults = {name: plain[name] for name in ("temperature", "top_p", "tool_choice", "store")}
    assert defaults == {"temperature": 1.0, "top_p": 1.0, "tool_choice": "auto", "store": False}
    assert plain["text"] == {"format": {"type": "text"}, "verbosity": "medium"}


def test_obfuscated_deltas_tell_little_of_the_texts_length() -> None:
    write = writer(obfuscate=True)
    frames = [write.delta(TextDelta("x" * length)) for length in range(6)][1:]
    assert len(set(map(len, frames[1:]))) == 1
    assert all("obfuscation" in read(frame)[-1] for frame in frames)
    assert "obfuscation" not in read(writer().delta(TextDelta("x")))[-1]


PIECES = st.lists(
    st.one_of(
        st.text(max_size=5), st.lists(st.sampled_from(["{}", "", '{"a"', ":1}"]), max_size=3)
    ),
    max_size=6,
)


@pytest.mark.parametrize("reason", ["stop", "length"])
@settings(deadline=None)
@given(pieces=PIECES)
def test_stream_and_whole_answer_agree_and_the_events_nest(pieces: list[Any], reason: Any) -> None:
    deltas: list[TextDelta] = []
    for number, piece in enumerate(pieces):
        if isinstance(piece, str):
            deltas.append(TextDelta(piece))
            continue
        calls = [ToolCallDelta(number, f"call_{number}", "f")]
        calls += [ToolCallDelta(number, arguments=arguments) for arguments in piece]
        deltas += [TextDelta("", tool_calls=(call,)) for call in calls]
    deltas.append(TextDelta("", reason, USAGE))
    events = stream(deltas)
    streamed, given_whole = events[-1]["response"], whole(deltas)
    assert streamed["output"] == given_whole["output"]
    texts = [i["content"][0]["text"] for i in streamed["output"] if i["type"] == "message"]
    assert "".join(texts) == "".join(piece for piece in pieces if isinstance(piece, str))
    open_at: int | None = None
    for event in events[2:-1]:
        if event["type"] == "response.output_item.added":
            assert open_at is None
            open_at = event["output_index"]
        assert event["output_index"] == open_at
        if event["type"] == "response.output_item.done":
            assert event["item"] == streamed["output"][open_at or 0]
            open_at = None
    assert open_at is None
