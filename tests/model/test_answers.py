"""Formats, log probabilities and penalties of the CPU engine through the whole server and the real SDK."""

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from internvl_server.settings import Settings

from tests.live_server import LiveServer

pytestmark = pytest.mark.model

MODEL = "tiny"
ASK: list[Any] = [{"role": "user", "content": "hello"}]
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "n": {"enum": [1, 2, 3]}},
    "required": ["ok", "n"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server(tiny_checkpoint: Path) -> Iterator[LiveServer]:
    settings = Settings(engine={"kind": "cpu"}, model={"path": str(tiny_checkpoint)})
    with LiveServer(settings) as server:
        yield server


@pytest.fixture
def ask(server: LiveServer) -> Iterator[Callable[..., Any]]:
    with server.client() as client:

        def create(**options: Any) -> Any:
            options = {"messages": ASK, "max_tokens": 60, "seed": 1} | options
            return client.chat.completions.create(model=MODEL, **options)

        yield create


def schema_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}


def test_a_json_schema(ask: Callable[..., Any]) -> None:
    choices = ask(response_format=schema_format(SCHEMA), n=4).choices
    values = [json.loads(choice.message.content) for choice in choices]
    assert {choice.finish_reason for choice in choices} == {"stop"}
    assert all(type(value["ok"]) is bool and value["n"] in (1, 2, 3) for value in values)


def test_a_json_schema_streamed(ask: Callable[..., Any]) -> None:
    chunks = list(ask(response_format=schema_format(SCHEMA), stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert set(json.loads(text)) == {"ok", "n"}
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_any_json_object(ask: Callable[..., Any]) -> None:
    choice = ask(response_format={"type": "json_object"}, max_tokens=30, temperature=0).choices[0]
    assert re.match(r'\{("|\})', choice.message.content)
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)


@pytest.mark.parametrize(
    ("outputs", "pattern"),
    [
        ({"regex": "[a-c]{4}-[0-9]+x"}, "[a-c]{4}-[0-9]+x"),
        ({"choice": ["yes sir", "no (never)"]}, r"yes sir|no \(never\)"),
        ({"grammar": 'root ::= "(" root ")" | "é"'}, r"\(*é\)*"),
        ({"json": SCHEMA}, r'\{"ok": (true|false), "n": [123]\}'),
    ],
)
def test_structured_outputs(ask: Callable[..., Any], outputs: dict[str, Any], pattern: str) -> None:
    for seed in range(3):
        choice = ask(extra_body={"structured_outputs": outputs}, seed=seed).choices[0]
        if choice.finish_reason == "stop":
            assert re.fullmatch(pattern, choice.message.content)
        else:
            assert "regex" in outputs or "grammar" in outputs


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("response_format", schema_format({"type": "nonsense"}), "nonsense"),
        ("structured_outputs.regex", {"regex": "("}, "unclosed"),
        ("structured_outputs.grammar", {"grammar": "root ::= x"}, "the rule 'x' is missing"),
        ("structured_outputs.json", {"json": {"$ref": "#/nowhere"}}, "nowhere"),
    ],
)
def test_a_format_that_cannot_be_kept_is_a_400(
    ask: Callable[..., Any], field: str, value: dict[str, Any], says: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=says) as caught:
        ask(extra_body={field.split(".", maxsplit=1)[0]: value})
    assert caught.value.param == field
    assert caught.value.code in (None, "invalid_value", "invalid_request")


def test_log_probabilities(ask: Callable[..., Any]) -> None:
    choice = ask(logprobs=True, top_logprobs=5, max_tokens=12, temperature=0).choices[0]
    entries = choice.logprobs.content
    assert len(entries) == 12
    for entry in entries:
        assert (
            entry.logprob
            == entry.top_logprobs[0].logprob
            == max(t.logprob for t in entry.top_logprobs)
        )
        assert len(entry.top_logprobs) == 5
        assert sum(math.exp(top.logprob) for top in entry.top_logprobs) < 1


def test_a_bias_forces_and_a_penalty_forbids(ask: Callable[..., Any]) -> None:
    def letters(bias: dict[str, float], **options: Any) -> list[str]:
        answer = ask(max_tokens=20, temperature=0, logit_bias=bias, logprobs=True, **options)
        return [entry.token for entry in answer.choices[0].logprobs.content]

    [letter] = set(letters({"65": 100}))
    both = {"65": 100, "66": 100}
    assert len(set(letters(both | {"66": 70}))) == 1
    assert set(letters(both, frequency_penalty=2)) == {letter, *letters({"66": 100})}


def test_min_tokens_and_ignored_ends(ask: Callable[..., Any], server: LiveServer) -> None:
    end = server.app.state.services.checkpoint.stop_token_ids
    bias = {str(token_id): 100 for token_id in end}
    usual = ask(logit_bias=bias)
    assert (usual.usage.completion_tokens, usual.choices[0].finish_reason) == (1, "stop")
    longer = ask(logit_bias=bias, extra_body={"min_tokens": 9})
    assert (longer.usage.completion_tokens, longer.choices[0].finish_reason) == (10, "stop")
    endless = ask(logit_bias=bias, extra_body={"ignore_eos": True}, max_tokens=15)
    assert (endless.usage.completion_tokens, endless.choices[0].finish_reason) == (15, "length")


def complete(server: LiveServer, **options: Any) -> Any:
    options = {"prompt": "hello", "max_tokens": 12, "temperature": 0} | options
    with server.client() as client:
        return client.completions.create(model=MODEL, **options)


@pytest.mark.parametrize("num_top", [0, 1, 5])
def test_log_probabilities_in_the_older_format(server: LiveServer, num_top: int) -> None:
    [choice] = complete(server, logprobs=num_top, temperature=1, seed=3).choices
    logprobs = choice.logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs)
    for place, token in enumerate(logprobs.tokens):
        top, chosen = logprobs.top_logprobs[place], logprobs.token_logprobs[place]
        assert top[token] == chosen <= 0
        likelier = [name for name, logprob in top.items() if logprob > chosen]
        assert len(top) <= num_top + 1
        assert len(top) == max(num_top, 1) or len(likelier) == num_top  # else it is one of those
    offsets = logprobs.text_offset
    for start, end, token in zip(
        offsets, [*offsets[1:], len(choice.text)], logprobs.tokens, strict=True
    ):
        if not token.startswith("bytes:") and "\ufffd" not in choice.text:
            assert choice.text[start:end] == token


def test_streamed_log_probabilities_are_those_of_the_whole(server: LiveServer) -> None:
    [whole] = complete(server, logprobs=2).choices
    pieces: dict[str, list[Any]] = {name: [] for name in whole.logprobs.model_dump()}
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        for chunk in client.completions.create(
            model=MODEL, prompt="hello", max_tokens=12, temperature=0, logprobs=2, stream=True
        ):
            if chunk.choices[0].logprobs is not None:
                for name, values in chunk.choices[0].logprobs.model_dump().items():
                    pieces[name] += values
    assert pieces == whole.logprobs.model_dump()


def test_prompts_that_differ_are_answered_as_if_alone(server: LiveServer) -> None:
    prompts = ["hello", "other", "hello"]
    together = [choice.text for choice in complete(server, prompt=prompts).choices]
    assert together == [complete(server, prompt=prompt).choices[0].text for prompt in prompts]


def test_a_completion_is_held_to_a_pattern(server: LiveServer) -> None:
    answer = complete(server, extra_body={"structured_outputs": {"regex": "[a-c]{4}"}})
    assert re.fullmatch("[a-c]{4}", answer.choices[0].text)


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [tool("switch", on={"type": "boolean"}), tool("wait", s={"enum": [1, 60]}), tool("stop")]
ARGUMENTS = {"switch": r'\{"on": (true|false)\}', "wait": r'\{"s": (1|60)\}', "stop": r"\{\}"}


@pytest.mark.parametrize("is_streamed", [False, True])
def test_required_calls(ask: Callable[..., Any], is_streamed: bool) -> None:
    names = set()
    for seed in range(4):
        options = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
        options |= {"max_tokens": 120, "seed": seed, "temperature": 1.5}
        if is_streamed:
            chunks = [chunk.choices[0] for chunk in ask(**options, stream=True)]
            pieces = [piece for c in chunks for piece in c.delta.tool_calls or ()]
            assert {piece.index for piece in pieces} == {0}
            name = "".join(piece.function.name or "" for piece in pieces)
            arguments = "".join(piece.function.arguments or "" for piece in pieces)
            reason = chunks[-1].finish_reason
        else:
            [choice] = ask(**options).choices
            [call] = choice.message.tool_calls
            assert not choice.message.content
            name, arguments, reason = (
                call.function.name,
                call.function.arguments,
                choice.finish_reason,
            )
        assert reason == "tool_calls"
        assert re.fullmatch(ARGUMENTS[name], arguments)
        names.add(name)
    assert len(names) > 1


def test_several_calls_of_one_function(ask: Callable[..., Any], server: LiveServer) -> None:
    """Without an end they go on; the one that `max_tokens` cuts off is left out."""
    end = server.app.state.services.checkpoint.stop_token_ids
    choice = ask(
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": "wait"}},
        logit_bias={str(token_id): -100 for token_id in end},
        max_tokens=200,
    ).choices[0]
    calls = choice.message.tool_calls
    assert len(calls) > 1
    assert choice.finish_reason == "length"
    assert {call.function.name for call in calls} == {"wait"}
    assert all(re.fullmatch(ARGUMENTS["wait"], call.function.arguments) for call in calls)


def test_calls_in_free_text(ask: Callable[..., Any], server: LiveServer) -> None:
    """The model is pushed into a call, which it then can only finish."""
    from internvl_server.prompt.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(server.app.state.services.checkpoint.path)
    bias = {str(tokenizer.control_id("<tool_call>")): 12}
    options = {"tools": TOOLS, "logit_bias": bias, "parallel_tool_calls": False, "max_tokens": 150}
    answers = [ask(**options, seed=seed).choices[0] for seed in range(3)]
    called = [choice for choice in answers if choice.message.tool_calls]
    assert called
    for choice in called:
        [call] = choice.message.tool_calls
        assert isinstance(json.loads(call.function.arguments), dict)
        assert call.function.name in ARGUMENTS


def test_a_required_tool_that_is_malformed_is_a_400(ask: Callable[..., Any]) -> None:
    odd = tool("odd", x={"type": "nonsense"})
    with pytest.raises(openai.BadRequestError, match="nonsense") as caught:
        ask(tools=[odd], tool_choice="required")
    assert caught.value.param == "tools"
    assert ask(tools=[odd], tool_choice="none").choices[0].finish_reason
