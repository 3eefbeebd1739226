import json
from dataclasses import replace

from internvl_server.api.json_text import json_text
from internvl_server.core import LogprobToken, TextDelta, TextLogprobs, ToolCallDelta, Usage
from internvl_server.protocol.chat.render import AnswerHead, ChunkWriter, completion
from internvl_server.protocol.dialects import ErrorBody
from openai.types.chat import ChatCompletion, ChatCompletionChunk


def chunks_of(events: bytes) -> list[bytes]:
    """The data of encoded events."""
    return [event.removeprefix(b"data: ") for event in events.split(b"\n\n") if event]


HEAD = AnswerHead("chatcmpl-1", "m", created=1, fingerprint="fp")
USAGE = Usage(num_prompt_tokens=10, num_completion_tokens=3, num_image_tokens=4)


def writer(*, include_usage: bool) -> ChunkWriter:
    return ChunkWriter(HEAD, include_usage=include_usage)


def test_every_chunk_has_the_fields_of_the_spec() -> None:
    write = writer(include_usage=True)
    chunks = [
        *chunks_of(write.begin()),
        *chunks_of(write.delta(TextDelta('"é\n\u2028'))),
        *chunks_of(write.delta(TextDelta("", "stop", USAGE))),
    ]
    for raw in chunks:
        ChatCompletionChunk.model_validate_json(raw, strict=True)
    role, content, finish, usage = map(json.loads, chunks)
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert content["choices"][0] == {
        "index": 0, "delta": {"content": '"é\n\u2028'}, "logprobs": None, "finish_reason": None,
    }  # fmt: skip
    assert finish["choices"][0]["delta"] == {}
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert [c["usage"] for c in (role, content, finish)] == [None] * 3
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 13
    assert usage["usage"]["prompt_tokens_details"] == {
        "image_tokens": 4, "text_tokens": 6, "cached_tokens": 0, "images": [],
    }  # fmt: skip


def test_usage_is_absent_unless_asked_for() -> None:
    assert "usage" not in json.loads(
        chunks_of(writer(include_usage=False).delta(TextDelta("x")))[0]
    )


def test_a_whole_answer_validates_strictly() -> None:
    answer = TextDelta("hi", "length", USAGE)
    body = completion(HEAD, [answer])
    whole = ChatCompletion.model_validate_json(json_text(body), strict=True)
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 3


def test_tool_calls_and_logprobs_validate_strictly() -> None:
    token = LogprobToken("é", "é".encode(), -0.5)
    half = LogprobToken("\ufffd", b"\xc3", -9999.0)
    logprobs = (TextLogprobs(token, (token, half)),)
    first = ToolCallDelta(0, "call_1", "f", '{"a"')
    deltas = [
        TextDelta("é", logprobs=logprobs),
        TextDelta("", tool_calls=(first,), index=1),
        TextDelta("", tool_calls=(ToolCallDelta(0, arguments=": 1}"),), index=1),
    ]
    write = writer(include_usage=False)
    chunks = [
        ChatCompletionChunk.model_validate_json(chunk, strict=True)
        for delta in deltas
        for chunk in chunks_of(write.delta(delta))
    ]
    assert chunks[0].choices[0].logprobs is not None
    [entry] = chunks[0].choices[0].logprobs.content or []
    assert (entry.token, entry.bytes, entry.logprob) == ("é", [0xC3, 0xA9], -0.5)
    assert [t.bytes for t in entry.top_logprobs] == [[0xC3, 0xA9], [0xC3]]
    [begin], [more] = (c.choices[0].delta.tool_calls or [] for c in chunks[1:])
    assert chunks[1].choices[0].index == 1
    assert begin.id == "call_1"
    assert begin.function is not None
    assert more.function is not None
    assert (begin.function.name, begin.function.arguments) == ("f", '{"a"')
    assert (more.id, more.function.name, more.function.arguments) == (None, None, ": 1}")

    whole = TextDelta("", "tool_calls", USAGE, logprobs, (ToolCallDelta(0, "call_1", "f", "{}"),))
    answer = ChatCompletion.model_validate_json(json_text(completion(HEAD, [whole])), strict=True)
    assert answer.choices[0].message.content is None
    [call] = answer.choices[0].message.tool_calls or []
    assert (call.type, call.id, call.function.name) == ("function", "call_1", "f")


def test_obfuscated_chunks_tell_little_of_the_texts_length() -> None:
    write = ChunkWriter(HEAD, include_usage=False, obfuscate=True)
    sizes = {len(write.delta(TextDelta("x" * length))) for length in range(20)}
    assert len(sizes) <= 2
    assert json.loads(chunks_of(write.delta(TextDelta("x")))[0])["obfuscation"] is not None


def test_log_probabilities_of_no_token_are_an_empty_list() -> None:
    asked = replace(HEAD, has_logprobs=True)
    body = json.loads(json_text(completion(asked, [TextDelta("", "stop", USAGE)])))
    assert body["choices"][0]["logprobs"] == {"content": [], "refusal": None}
    assert completion(HEAD, [TextDelta("", "stop", USAGE)])["choices"][0]["logprobs"] is None


def test_a_delta_with_text_and_an_end_is_two_chunks() -> None:
    text, end = map(
        json.loads, chunks_of(writer(include_usage=False).delta(TextDelta("x", "stop")))
    )
    assert text["choices"][0]["delta"] == {"content": "x"}
    assert end["choices"][0]["finish_reason"] == "stop"


def test_a_failure_ends_a_stream_without_done() -> None:
    error = ErrorBody("It broke.", "server_error", "engine_error", None)
    [event] = chunks_of(writer(include_usage=False).failed(error))
    assert json.loads(event)["error"]["message"] == "It broke."
    assert chunks_of(writer(include_usage=False).end) == [b"[DONE]"]
