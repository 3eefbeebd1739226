import json

from openai.types.chat import ChatCompletion, ChatCompletionChunk

from server.core import TextDelta, Usage
from server.protocol.render import ChunkWriter, completion

USAGE = Usage(num_prompt_tokens=10, num_completion_tokens=3, num_image_tokens=4)


def writer(*, include_usage: bool) -> ChunkWriter:
    return ChunkWriter("chatcmpl-1", "m", created=1, fingerprint="fp", include_usage=include_usage)


def test_every_chunk_has_the_fields_of_the_spec() -> None:
    write = writer(include_usage=True)
    chunks = [write.role(), write.content('"é\n\u2028'), write.finish("stop"), write.usage(USAGE)]
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
    assert usage["usage"]["prompt_tokens_details"] == {"image_tokens": 4}


def test_usage_is_absent_unless_asked_for() -> None:
    assert "usage" not in json.loads(writer(include_usage=False).content("x"))


def test_a_whole_answer_validates_strictly() -> None:
    answer = TextDelta("hi", "length", USAGE)
    body = completion("chatcmpl-1", "m", created=1, fingerprint="fp", answer=answer)
    whole = ChatCompletion.model_validate_json(json.dumps(body), strict=True)
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 3
