"""Reasoning before the answer, through the official SDKs: played by an engine, token by token."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from internvl_server.prompt.thinking import THINKING_SYSTEM_TEXT
from internvl_server.prompt.tokenizer import PromptTokenizer, load_tokenizer
from internvl_server.settings import Settings

from tests.live_server import LiveServer
from tests.scripted_engine import ScriptedEngine

ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "how many?"}]}
SAID = "<think>\nOne, two: STOP.\n</think>\n\nThere are 2."
TOOL = {"name": "count", "parameters": {"type": "object", "properties": {}}}
CALL = '<tool_call>\n{"name": "count", "arguments": {}}\n</tool_call>'


@pytest.fixture(scope="module")
def words(thinking_checkpoint: Path) -> PromptTokenizer:
    return load_tokenizer(thinking_checkpoint)


class Played:
    """A server whose model says what a test wants."""

    def __init__(self, server: LiveServer, words: PromptTokenizer) -> None:
        self.server = server
        self.words = words
        self.client = server.client()

    def say(self, text: str, size: int = 1) -> int:
        """Play a text in deltas of some tokens; returns the number of tokens with the last one."""
        ids = self.words.encode_answer(text)
        self.server.engine.script = [ids[i : i + size] for i in range(0, len(ids), size)]
        return len(ids) + 1

    @property
    def prompt(self) -> str:
        return self.words.text_of(self.server.engine.requests[-1].prompt_token_ids)

    def post(self, path: str, body: dict[str, Any]) -> httpx2.Response:
        return httpx2.post(self.server.url + path, json=body, timeout=60)


def serving(checkpoint: Path, words: PromptTokenizer, thinking: str) -> LiveServer:
    engine = ScriptedEngine(end_id=words.control_id("<|im_end|>"))
    model = {"path": str(checkpoint), "served_name": "m", "thinking": thinking}
    return LiveServer(Settings(model=model), engine)


@pytest.fixture(scope="module")
def played(thinking_checkpoint: Path, words: PromptTokenizer) -> Iterator[Played]:
    with serving(thinking_checkpoint, words, "auto") as server:
        yield Played(server, words)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_chat(played: Played, size: int) -> None:
    total = played.say(SAID, size)
    extra = {"enable_thinking": True}
    whole = played.client.chat.completions.create(**ASK, extra_body=extra)
    message = whole.choices[0].message
    assert message.content == "There are 2."
    assert message.reasoning_content == "One, two: STOP."
    assert whole.usage is not None
    details = whole.usage.completion_tokens_details
    assert details is not None
    count = details.reasoning_tokens
    assert whole.usage.completion_tokens == total
    assert count == len(played.words.encode_answer(SAID.partition("\n\n")[0]))
    assert played.prompt.startswith(f"<|im_start|>system\n{THINKING_SYSTEM_TEXT}<|im_end|>")

    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(played.client.chat.completions.create(**ASK, **options, extra_body=extra))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    reasoning = [getattr(delta, "reasoning_content", None) for delta in deltas]
    text = [delta.content for delta in deltas]
    assert "".join(filter(None, reasoning)) == "One, two: STOP."
    assert "".join(filter(None, text)) == "There are 2."
    assert not any(r and t for r, t in zip(reasoning, text, strict=True))
    assert max(i for i, r in enumerate(reasoning) if r) < min(i for i, t in enumerate(text) if t)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens_details is not None
    assert chunks[-1].usage.completion_tokens_details.reasoning_tokens == count


def test_without_a_wish_the_prompt_is_the_usual_one_and_reasoning_is_still_found(
    played: Played,
) -> None:
    played.say(SAID)
    whole = played.client.chat.completions.create(**ASK)
    assert "rigorously" not in played.prompt
    assert whole.choices[0].message.reasoning_content == "One, two: STOP."
    played.say("There are <think>2</think>.")
    message = played.client.chat.completions.create(**ASK).choices[0].message
    assert message.content == "There are <think>2</think>."
    assert not hasattr(message, "reasoning_content")


def test_stop_strings_and_the_limit(played: Played) -> None:
    played.say(SAID)
    choice = played.client.chat.completions.create(**ASK, stop=["STOP", " 2"]).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("There are", "stop")
    cut = played.client.chat.completions.create(**ASK, max_tokens=4)
    assert cut.choices[0].finish_reason == "length"
    assert cut.choices[0].message.content == ""
    assert cut.choices[0].message.reasoning_content
    assert cut.usage is not None
    assert cut.usage.completion_tokens_details is not None
    assert cut.usage.completion_tokens_details.reasoning_tokens == 4


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_cover_all_tokens(played: Played, stream: bool) -> None:
    total = played.say(SAID)
    options = {"logprobs": True, "stream": stream}
    made: Any = played.client.chat.completions.create(**ASK, **options)
    choices = [chunk.choices[0] for chunk in made] if stream else made.choices
    entries = [e for c in choices if c.logprobs for e in c.logprobs.content or ()]
    assert [e.logprob for e in entries] == [-float(i) for i in range(total - 1)]
    assert "".join(e.token for e in entries) == SAID
    if stream:
        for choice in choices:
            shown = getattr(choice.delta, "reasoning_content", None)
            for entry in choice.logprobs.content if shown and choice.logprobs else ():
                assert entry.token in SAID.partition("</think>")[0]


def test_how_it_is_returned(played: Played) -> None:
    played.say(SAID)
    create = played.client.chat.completions.create
    hidden = create(**ASK, extra_body={"include_reasoning": False})
    assert hidden.choices[0].message.content == "There are 2."
    assert not hasattr(hidden.choices[0].message, "reasoning_content")
    assert hidden.usage is not None
    assert hidden.usage.completion_tokens_details is not None
    assert hidden.usage.completion_tokens_details.reasoning_tokens
    kept = create(**ASK, extra_body={"separate_reasoning": False})
    assert kept.choices[0].message.content == SAID


def test_choices(played: Played) -> None:
    played.say(SAID)
    for stream in (False, True):
        made: Any = played.client.chat.completions.create(**ASK, n=2, stream=stream)
        parts: dict[int, list[str]] = {0: [], 1: []}
        for choice in [c for chunk in made for c in chunk.choices] if stream else made.choices:
            said = choice.delta if stream else choice.message
            parts[choice.index].append(getattr(said, "reasoning_content", None) or "")
        assert ["".join(p) for p in parts.values()] == ["One, two: STOP."] * 2


def test_tools_are_called_after_reasoning(played: Played) -> None:
    played.say(f"<think>\n{CALL}\n</think>\n\n{CALL}")
    tools = [{"type": "function", "function": TOOL}]
    for stream in (False, True):
        made: Any = played.client.chat.completions.create(**ASK, tools=tools, stream=stream)
        choices = [c.choices[0] for c in made] if stream else made.choices
        said = [c.delta if stream else c.message for c in choices]
        calls = [call for part in said for call in part.tool_calls or ()]
        assert [c.function.name for c in calls if c.function.name] == ["count"]
        assert "".join(getattr(p, "reasoning_content", None) or "" for p in said) == CALL
        assert choices[-1].finish_reason == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_that_stays_in_the_text_has_no_calls(played: Played, stream: bool) -> None:
    thought = f"<think>\n{CALL}\n</think>"
    tools = [{"type": "function", "function": TOOL}]
    ask: dict[str, Any] = {**ASK, "tools": tools, "extra_body": {"separate_reasoning": False}}
    for answer, num_calls in (("No.", 0), (CALL, 1)):
        played.say(f"{thought}\n\n{answer}")
        made: Any = played.client.chat.completions.create(**ask, stream=stream)
        choices = [c.choices[0] for c in made] if stream else made.choices
        said = [c.delta if stream else c.message for c in choices]
        text = "".join(part.content or "" for part in said)
        assert text == (thought if num_calls else f"{thought}\n\n{answer}")
        assert len([c for part in said for c in part.tool_calls or () if c.id]) == num_calls


@pytest.mark.parametrize("size", [1, 7, 500])
def test_a_call_in_reasoning_is_not_the_only_one_that_is_allowed(played: Played, size: int) -> None:
    answer = f"<think>\n{CALL}\n</think>\n\n{CALL}"
    played.say(f"{answer}\n{CALL}", size)
    tools = [{"type": "function", "function": TOOL}]
    made = played.client.chat.completions.create(
        **ASK, tools=tools, parallel_tool_calls=False, logprobs=True
    )
    assert made.usage is not None
    assert made.usage.completion_tokens == len(played.words.encode_answer(answer))
    logprobs = made.choices[0].logprobs
    assert logprobs is not None
    assert "".join(entry.token for entry in logprobs.content or ()) == answer
    assert made.choices[0].message.reasoning_content == CALL
    assert len(made.choices[0].message.tool_calls or ()) == 1
    assert made.choices[0].finish_reason == "tool_calls"


def test_a_format_excludes_reasoning(played: Played) -> None:
    played.say('{"a": 1}')
    answer = played.client.chat.completions.with_raw_response.create(
        **ASK, response_format={"type": "json_object"}, reasoning_effort="high"
    )
    assert "has no reasoning" in answer.headers["x-warnings"]
    assert "rigorously" not in played.prompt
    assert answer.parse().choices[0].message.content == '{"a": 1}'


def test_a_format_ends_reasoning_that_was_begun(played: Played) -> None:
    played.say('{"a": 1}')
    begun = [*ASK["messages"], {"role": "assistant", "content": "<think>\nOne,"}]
    made = played.client.chat.completions.create(
        model="m",
        messages=begun,
        response_format={"type": "json_object"},
        extra_body={"continue_final_message": True, "add_generation_prompt": False},
    )
    assert made.choices[0].message.content == '{"a": 1}'


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_refused_keeps_its_reasoning(
    played: Played, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    async def compile_loosely(_: Any) -> tuple[str, ...]:
        return ("uniqueItems",)

    monkeypatch.setattr(played.server.engine, "compile", compile_loosely)
    parameters = {"type": "object", "properties": {"a": {"type": "integer"}}}
    strict = {"name": "count", "strict": True, "parameters": parameters}
    call = CALL.replace("{}", '{"a": "x"}')
    played.say(f"<think>\nI count.\n</think>\n\n{call}")
    tools: Any = [{"type": "function", "function": strict}]
    made: Any = played.client.chat.completions.create(**ASK, tools=tools, stream=stream)
    choices = [c.choices[0] for c in made] if stream else made.choices
    said = [c.delta if stream else c.message for c in choices]
    assert "".join(getattr(p, "reasoning_content", None) or "" for p in said) == "I count."
    assert "not of type" in "".join(part.refusal or "" for part in said)
    tools = [{"type": "function", **strict}]
    response: Any = played.client.responses.create(
        model="m", input="how many?", tools=tools, stream=stream
    )
    output = list(response)[-1].response.output if stream else response.output
    assert (output[0].type, output[0].content[0].text) == ("reasoning", "I count.")
    assert output[-1].content[0].type == "refusal"


def test_a_prefilled_answer_goes_on_reasoning(played: Played) -> None:
    played.say(" two.\n</think>\n\nThere are 2.")
    begun = [*ASK["messages"], {"role": "assistant", "content": "<think>\nOne,"}]
    extra = {"continue_final_message": True, "add_generation_prompt": False}
    made = played.client.chat.completions.create(model="m", messages=begun, extra_body=extra)
    assert made.choices[0].message.reasoning_content == " two."
    assert made.choices[0].message.content == "There are 2."
    think_ids = played.words.think_ids
    assert think_ids is not None
    assert think_ids[0] in played.server.engine.requests[-1].prompt_token_ids


def test_reasoning_that_is_sent_back_is_left_out(played: Played) -> None:
    played.say(SAID)
    first = played.client.chat.completions.create(**ASK).choices[0].message
    history: Any = [*ASK["messages"], first, {"role": "user", "content": "sure?"}]
    answer = played.client.chat.completions.with_raw_response.create(model="m", messages=history)
    assert answer.headers["x-ignored-fields"] == "messages%5B1%5D.reasoning_content"
    assert "assistant\nThere are 2.<|im_end|>" in played.prompt
    assert "One, two" not in played.prompt
    history[1] = {"role": "assistant", "content": SAID}
    played.client.chat.completions.create(model="m", messages=history)
    assert "assistant\nThere are 2.<|im_end|>" in played.prompt
    assert "One, two" not in played.prompt


@pytest.mark.parametrize("size", [1, 100])
def test_responses(played: Played, size: int) -> None:
    total = played.say(SAID, size)
    ask: dict[str, Any] = {"model": "m", "input": "how many?", "reasoning": {"effort": "medium"}}
    whole = played.client.responses.create(**ask)
    reasoning, message = whole.output
    assert reasoning.type == "reasoning"
    assert [part.text for part in reasoning.content or ()] == ["One, two: STOP."]
    assert (reasoning.summary, reasoning.status) == ([], "completed")
    assert message.type == "message"
    assert whole.output_text == "There are 2."
    assert whole.reasoning is not None
    assert whole.reasoning.effort == "medium"
    assert whole.usage is not None
    assert whole.usage.output_tokens == total
    assert 0 < whole.usage.output_tokens_details.reasoning_tokens < total
    assert "rigorously" in played.prompt

    with played.client.responses.stream(**ask) as stream:
        events: list[Any] = list(stream)
        final = stream.get_final_response()
    assert [item.type for item in final.output] == ["reasoning", "message"]
    assert final.output_text == "There are 2."
    kinds = [event.type for event in events]
    order = [kind for i, kind in enumerate(kinds) if kind != kinds[i - 1]]
    assert order == [
        "response.created", "response.in_progress",
        "response.output_item.added", "response.content_part.added",
        "response.reasoning_text.delta", "response.reasoning_text.done",
        "response.content_part.done", "response.output_item.done",
        "response.output_item.added", "response.content_part.added",
        "response.output_text.delta", "response.output_text.done",
        "response.content_part.done", "response.output_item.done",
        "response.completed",
    ]  # fmt: skip
    pieces = [event.delta for event in events if event.type == "response.reasoning_text.delta"]
    assert "".join(pieces) == "One, two: STOP."
    assert [event.sequence_number for event in events] == list(range(len(events)))

    again = [*whole.output, {"role": "user", "content": "sure?"}]
    played.client.responses.create(model="m", input=again)
    assert "assistant\nThere are 2.<|im_end|>" in played.prompt


def test_responses_that_are_cut_or_have_log_probabilities(played: Played) -> None:
    played.say(SAID)
    ask: dict[str, Any] = {"model": "m", "input": "how many?"}
    cut = played.client.responses.create(**ask, max_output_tokens=4)
    assert (cut.status, [item.type for item in cut.output]) == ("incomplete", ["reasoning"])
    assert cut.output[0].status == "incomplete"
    assert cut.output_text == ""
    include: Any = ["message.output_text.logprobs"]
    shown = played.client.responses.create(**ask, include=include)
    entries = shown.output[1].content[0].logprobs
    assert "".join(e.token for e in entries or ()).lstrip("\n") == "There are 2."


def test_responses_with_a_call(played: Played) -> None:
    played.say(f"<think>\nI count.\n</think>\n\n{CALL}")
    tools: Any = [{"type": "function", "strict": None, **TOOL}]
    made = played.client.responses.create(model="m", input="how many?", tools=tools)
    assert [item.type for item in made.output] == ["reasoning", "function_call"]


@pytest.mark.parametrize("size", [1, 100])
def test_messages(played: Played, size: int) -> None:
    total = played.say(SAID, size)
    client = played.server.anthropic_client()
    ask: dict[str, Any] = ASK | {"max_tokens": 500}
    ask["thinking"] = {"type": "enabled", "budget_tokens": 1024}
    raw = client.messages.with_raw_response.create(**ask)
    assert raw.headers["x-ignored-fields"] == "thinking.budget_tokens"
    whole = raw.parse()
    thought, text = whole.content
    assert thought.type == "thinking"
    assert (thought.thinking, bool(thought.signature)) == ("One, two: STOP.", True)
    assert text.type == "text"
    assert text.text == "There are 2."
    assert whole.usage.output_tokens == total
    assert whole.usage.output_tokens_details is not None
    assert 0 < whole.usage.output_tokens_details.thinking_tokens < total
    assert "rigorously" in played.prompt

    with client.messages.stream(**ask) as stream:
        pieces = [event.thinking for event in stream if event.type == "thinking"]
        final = stream.get_final_message()
    assert "".join(pieces) == "One, two: STOP."
    assert [block.model_dump() for block in final.content] == [
        block.model_dump() for block in whole.content
    ]

    history = [*ASK["messages"], {"role": "assistant", "content": whole.content}]
    again = [*history, {"role": "user", "content": "sure?"}]
    client.messages.create(model="m", max_tokens=500, messages=again)
    assert "assistant\nThere are 2.<|im_end|>" in played.prompt
    hidden = client.messages.create(
        **ask | {"thinking": {"type": "adaptive", "display": "omitted"}}
    )
    assert [block.type for block in hidden.content] == ["text"]


def test_messages_that_are_cut(played: Played) -> None:
    played.say(SAID)
    made = played.server.anthropic_client().messages.create(**ASK, max_tokens=4)
    assert [block.type for block in made.content] == ["thinking"]
    assert made.stop_reason == "max_tokens"


def test_raw_completions_are_not_divided(played: Played) -> None:
    played.say(SAID)
    made = played.client.completions.create(model="m", prompt="how many?", max_tokens=100)
    assert made.choices[0].text == SAID
    assert made.usage is not None
    assert made.usage.completion_tokens_details is not None
    assert made.usage.completion_tokens_details.reasoning_tokens == 0


def test_counting_and_tokenizing_know_it(played: Played) -> None:
    played.say(SAID)
    for fields in ({"enable_thinking": True}, {}):
        body = ASK | fields
        asked = played.post("/v1/chat/completions", body).json()
        counted = played.post("/v1/chat/completions/input_tokens", body).json()
        tokens = played.post("/tokenize", body).json()
        assert asked["usage"]["prompt_tokens"] == counted["input_tokens"] == tokens["count"]


def test_a_server_that_thinks_by_default(thinking_checkpoint: Path, words: PromptTokenizer) -> None:
    with serving(thinking_checkpoint, words, "on") as server:
        played = Played(server, words)
        played.say(SAID)
        played.client.chat.completions.create(**ASK)
        assert "rigorously" in played.prompt
        played.client.chat.completions.create(**ASK, reasoning_effort="none")
        assert "rigorously" not in played.prompt


def test_a_server_that_does_not_think(thinking_checkpoint: Path, words: PromptTokenizer) -> None:
    with serving(thinking_checkpoint, words, "off") as server:
        played = Played(server, words)
        played.say(SAID)
        made = played.client.chat.completions.create(**ASK, extra_body={"think": False})
        assert made.choices[0].message.content == SAID
        with pytest.raises(openai.BadRequestError) as caught:
            played.client.chat.completions.create(**ASK, reasoning_effort="low")
        assert caught.value.param == "reasoning_effort"
