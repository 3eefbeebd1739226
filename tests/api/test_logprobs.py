"""Log probabilities and biases over HTTP: true text and bytes, whatever the text is."""

from typing import Any

import pytest
from internvl_server.prompt.tokenizer import PromptTokenizer

from tests.live_server import LiveServer

MODEL = "tiny"
ASK = [{"role": "system", "content": "s"}, {"role": "user", "content": "héllo 世界 🙂"}]


def entries(answer: Any) -> list[Any]:
    return answer.choices[0].logprobs.content or []


def test_bytes_concatenate_to_the_text(echo_server: LiveServer) -> None:
    answer = echo_server.client().chat.completions.create(
        model=MODEL, messages=ASK, logprobs=True, top_logprobs=3
    )
    data = bytes(byte for entry in entries(answer) for byte in entry.bytes)
    assert data.decode() == answer.choices[0].message.content
    for entry in entries(answer):
        assert bytes(entry.bytes).decode("utf-8", "replace") == entry.token
        assert len(entry.top_logprobs) == 3
        assert entry.bytes in [top.bytes for top in entry.top_logprobs]
        values = [top.logprob for top in entry.top_logprobs]
        assert values == sorted(values, reverse=True)


def test_streamed_entries_are_the_whole_answers(echo_server: LiveServer) -> None:
    options: dict[str, Any] = {"model": MODEL, "messages": ASK, "logprobs": True, "stop": "界"}
    client = echo_server.client()
    whole = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(stream=True, **options))
    streamed = [
        entry for c in chunks if c.choices[0].logprobs for entry in c.choices[0].logprobs.content
    ]
    assert streamed == entries(whole)
    assert all(entry.top_logprobs == [] for entry in streamed)


def test_without_logprobs_there_are_none(echo_server: LiveServer) -> None:
    answer = echo_server.client().chat.completions.create(model=MODEL, messages=ASK)
    assert answer.choices[0].logprobs is None


def test_a_bias_of_minus_100_bans_a_token(
    echo_server: LiveServer, tokenizer: PromptTokenizer
) -> None:
    [banned] = tokenizer.encode_text("h")
    answer = echo_server.client().chat.completions.create(
        model=MODEL, messages=ASK, logit_bias={str(banned): -100}
    )
    assert "h" not in (answer.choices[0].message.content or "h")


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"logit_bias": {"99999999": 1}}, "logit_bias"), ({"stop_token_ids": [-1]}, "stop_token_ids")],
)
def test_ids_the_model_does_not_have(
    echo_server: LiveServer, fields: dict[str, Any], param: str
) -> None:
    response = echo_server.post({"model": MODEL, "messages": ASK} | fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_a_stop_token_ends_the_answer_unseen(
    echo_server: LiveServer, tokenizer: PromptTokenizer
) -> None:
    ids = tokenizer.encode_text("system\ns\nuser\nh")
    answer = echo_server.client().chat.completions.create(
        model=MODEL, messages=ASK, extra_body={"stop_token_ids": [ids[-1]]}
    )
    assert answer.choices[0].finish_reason == "stop"
    text = answer.choices[0].message.content or ""
    assert tokenizer.decode(ids[-1:]) not in text
