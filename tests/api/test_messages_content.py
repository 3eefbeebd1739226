"""Pictures, tools and history through `/v1/messages`: the echo engine repeats the prompt it is given."""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import anthropic
import pytest
from anthropic.types import Message

from tests.api.test_messages import ASK, frames, post, text_of
from tests.live_server import LiveServer
from tests.video_files import video

PICTURE = Path(__file__).parents[1] / "data/example.jpg"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [
    {"name": "weather", "description": "Asks for the weather.", "input_schema": SCHEMA},
    {"name": "time", "input_schema": {"type": "object"}},
]


def spelled(name: str, **arguments: Any) -> str:
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{call}\n</tool_call>"


TWO = f"{spelled('weather', city='北 🙂')}\n{spelled('time')}"
CALLS = ASK | {"max_tokens": 2000, "tools": TOOLS, "messages": [{"role": "user", "content": TWO}]}


@pytest.fixture
def client(echo_server: LiveServer) -> Iterator[anthropic.Anthropic]:
    with echo_server.anthropic_client() as made:
        yield made


def image(data: str, **source: Any) -> dict[str, Any]:
    kind = {"type": "base64", "media_type": "image/jpeg", "data": data}
    return {"type": "image", "source": kind | source}


def said(client: anthropic.Anthropic, *messages: Any, **fields: Any) -> str:
    """The prompt of a conversation, after its system text."""
    ask = ASK | {"max_tokens": 3000, "messages": list(messages)} | fields
    return text_of(client.messages.create(**ask)).removeprefix("system\ns\n")


def calls_of(message: Message) -> list[tuple[str, Any]]:
    return [(block.name, block.input) for block in message.content if block.type == "tool_use"]


def test_pictures(
    client: anthropic.Anthropic, echo_server: LiveServer, picture_url: Callable[..., str]
) -> None:
    encoded = base64.b64encode(PICTURE.read_bytes()).decode()
    ways = (
        image(encoded),
        image(f"data:image/jpeg;base64,{encoded}"),
        {"type": "image", "source": {"type": "url", "url": f"data:image/jpeg;base64,{encoded}"}},
    )
    chat = echo_server.client().chat.completions.create(
        model="tiny",
        messages=[
            {"role": "system", "content": "s"},
            {
                "role": "user",
                "content": [
                    {
                        "type": "image_url",
                        "image_url": {"url": f"data:image/jpeg;base64,{encoded}"},
                    },
                    {"type": "text", "text": "what?"},
                ],
            },
        ],
    )
    for way in ways:
        content: Any = [way, {"type": "text", "text": "what?"}]
        messages: Any = [{"role": "user", "content": content}]
        usage = client.messages.create(**ASK | {"messages": messages}).usage
        count = client.messages.count_tokens(model="tiny", system="s", messages=messages)
        assert chat.usage is not None
        assert usage.input_tokens == count.input_tokens == chat.usage.prompt_tokens
    few: Any = [{"role": "user", "content": [image(encoded) | {"max_tiles": 1}]}]
    usage = client.messages.create(**ASK | {"messages": few}).usage
    assert usage.model_extra is not None
    assert [size["tiles"] for size in usage.model_extra["input_tokens_details"]["images"]] == [1]


def test_a_video_in_the_place_of_an_image_is_played(client: anthropic.Anthropic) -> None:
    encoded = base64.b64encode(video()).decode()
    for source in ({"media_type": "video/mp4"}, {"media_type": None}):
        text = said(client, {"role": "user", "content": [image(encoded, **source)]})
        assert "Frame8: " in text


def test_a_picture_that_cannot_be_used_is_named(echo_server: LiveServer) -> None:
    content = [{"type": "text", "text": "x"}, image("bm90IGEgcGljdHVyZQ==")]
    answer = post(echo_server, ASK | {"messages": [{"role": "user", "content": content}]})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["details"] == {
        "error_code": "invalid_image",
        "param": "messages[0].content[1].source.data",
    }


def test_calls_and_their_results(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**CALLS)
    assert message.stop_reason == "tool_use"
    assert calls_of(message) == [("weather", {"city": "北 🙂"}), ("time", {})]
    first, second = [block for block in message.content if block.type == "tool_use"]
    assert first.id.startswith("toolu_")
    assert first.id != second.id
    results: Any = [
        {"type": "tool_result", "tool_use_id": second.id, "content": "noon"},
        {
            "type": "tool_result",
            "tool_use_id": first.id,
            "content": [{"type": "text", "text": "sunny"}],
            "is_error": False,
            "cache_control": {"type": "ephemeral"},
        },
        {"type": "text", "text": "and?"},
    ]
    text = said(
        client,
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": results},
    )
    assert f"{TWO}\nuser\n" in text
    assert text.endswith(
        "<tool_response>\nsunny\n</tool_response>\n<tool_response>\nnoon\n</tool_response>\n"
        "user\nand?\nassistant\n"
    )


def test_streamed_calls_are_the_whole_messages(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(**CALLS)
    with client.messages.stream(**CALLS) as stream:
        events = list(stream)
        final = stream.get_final_message()
    assert calls_of(final) == calls_of(whole)
    assert text_of(final) == text_of(whole)
    assert (final.stop_reason, final.usage) == (whole.stop_reason, whole.usage)
    assert [block.type for block in final.content] == [block.type for block in whole.content]
    starts = [event for event in events if event.type == "content_block_start"]
    stops = [event for event in events if event.type == "content_block_stop"]
    places = list(range(len(final.content)))
    assert [event.index for event in starts] == [event.index for event in stops] == places


async def test_calls_with_the_async_client(echo_server: LiveServer) -> None:
    async with (
        anthropic.AsyncAnthropic(base_url=echo_server.url, api_key="none") as client,
        client.messages.stream(**CALLS) as stream,
    ):
        final = await stream.get_final_message()
    assert len(calls_of(final)) == 2


def test_the_sdks_tool_runner(client: anthropic.Anthropic) -> None:
    """It sends the calls and their results back by itself, in a thread unless the server has none."""
    asked: list[str] = []

    @anthropic.beta_tool
    def weather(city: str) -> str:
        """Asks for the weather."""
        asked.append(city)
        return "It rains."

    runner = client.beta.messages.tool_runner(
        **CALLS
        | {"messages": [{"role": "user", "content": spelled("weather", city="Bern")}]}
        | {"tools": [weather]},
        max_iterations=2,
    )
    first, second = list(runner)
    assert first.stop_reason == "tool_use"
    assert asked[0] == "Bern"
    assert second.usage.input_tokens > first.usage.input_tokens


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ({"type": "auto"}, ["weather", "time"]),
        ({"type": "auto", "disable_parallel_tool_use": True}, ["weather"]),
        ({"type": "none"}, []),
        ({"type": "tool", "name": "time"}, ["time"]),
    ],
)
def test_tool_choice(client: anthropic.Anthropic, choice: Any, names: list[str]) -> None:
    message = client.messages.create(**CALLS, tool_choice=choice)
    assert [name for name, _ in calls_of(message)] == names
    assert message.stop_reason == ("tool_use" if names else "end_turn")


def test_any_tool(client: anthropic.Anthropic) -> None:
    message = client.messages.create(
        **ASK, tools=TOOLS, tool_choice={"type": "any", "disable_parallel_tool_use": True}
    )
    assert len(calls_of(message)) == 1
    assert message.stop_reason == "tool_use"


def test_deferred_tools_are_offered_after_a_reference(client: anthropic.Anthropic) -> None:
    tools = [TOOLS[0] | {"defer_loading": True}, TOOLS[1]]
    messages: Any = [
        {"role": "user", "content": "go"},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "c", "name": "search", "input": {}}],
        },
    ]
    found = {"type": "tool_reference", "tool_name": "weather"}
    result = {"type": "tool_result", "tool_use_id": "c", "content": [found]}

    def change(kind: str, name: str) -> Any:
        reference = {"type": "tool_reference", "name": name}
        return {"role": "system", "content": [{"type": kind, "tool": reference}]}

    def offered(*more: Any) -> tuple[bool, bool]:
        text = said(client, *messages, *more, tools=tools)
        return '"name": "weather"' in text, '"name": "time"' in text

    with_result = {"role": "user", "content": [result]}
    assert offered({"role": "user", "content": "x"}) == (False, True)
    assert offered(with_result) == (True, True)
    assert offered(with_result, change("tool_removal", "time")) == (True, False)
    assert offered(change("tool_addition", "weather"), with_result) == (True, True)
    assert "<tool_response>\nweather\n</tool_response>" in said(
        client, *messages, with_result, tools=tools
    )


def test_instructions_may_hold_for_one_turn(client: anthropic.Anthropic) -> None:
    hello, note = {"role": "user", "content": "x"}, {"role": "system", "content": "NOTE"}
    brief = note | {"clear_at": "next_user_message"}
    assert "NOTE" in said(client, hello, brief)
    assert "NOTE" not in said(client, hello, brief, hello)
    assert "NOTE" in said(client, hello, note | {"clear_at": "never"}, hello)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": {"type": "tool"}, "tools": TOOLS}, "tool_choice.name"),
        ({"tool_choice": {"type": "tool", "name": "no"}, "tools": TOOLS}, "tool_choice.name"),
        ({"tool_choice": {"type": "auto", "name": "time"}, "tools": TOOLS}, "tool_choice.name"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools[1].name"),
        ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools[0].name"),
    ],
)
def test_wrong_tools(echo_server: LiveServer, fields: dict[str, Any], param: str) -> None:
    answer = post(echo_server, ASK | fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["details"]["param"] == param


def test_a_call_that_the_limit_cuts_off(echo_server: LiveServer) -> None:
    body = ASK | {"tools": TOOLS, "tool_choice": {"type": "tool", "name": "weather"}}
    needed = post(echo_server, body).json()["usage"]["output_tokens"]
    body |= {"max_tokens": needed - 20}
    whole = post(echo_server, body).json()
    assert whole["stop_reason"] == "max_tokens"
    assert whole["content"] == [{"type": "text", "text": ""}], "its name is not complete"
    events = frames(post(echo_server, body | {"stream": True}))
    assert [data["type"] for _, data in events[-3:]] == [
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[-2][1]["delta"]["stop_reason"] == "max_tokens"


def test_results_with_pictures_and_errors(client: anthropic.Anthropic) -> None:
    encoded = base64.b64encode(PICTURE.read_bytes()).decode()
    call: Any = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}

    def result(**members: Any) -> str:
        block = {"type": "tool_result", "tool_use_id": "toolu_1"} | members
        return said(
            client,
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [block]},
        ).partition("<tool_response>")[2]

    assert result(content=[image(encoded) | {"max_tiles": 1}]).startswith("\n\n\n</tool_response>")
    assert result().startswith("\n\n</tool_response>")
    assert result(content="no file", is_error=True).startswith("\nError: no file\n")


def test_reasoning_in_the_history_is_dropped_and_named(echo_server: LiveServer) -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "x"}
    hidden = {"type": "redacted_thinking", "data": "x"}
    answer = {"role": "assistant", "content": [thought, hidden, {"type": "text", "text": "A."}]}
    hello = {"role": "user", "content": "hello"}
    with_thoughts = ASK | {"messages": [hello, answer, hello]}
    without = ASK | {"messages": [hello, {"role": "assistant", "content": "A."}, hello]}
    got = post(echo_server, with_thoughts)
    ignored = unquote(got.headers["x-ignored-fields"])
    assert ignored == "messages[1].content[0], messages[1].content[1]"
    assert got.json()["content"] == post(echo_server, without).json()["content"]


def test_any_history_is_answered(client: anthropic.Anthropic) -> None:
    text: Any = {"type": "text", "text": "x", "citations": None}
    assert said(client, {"role": "user", "content": []}) == "user\n\nassistant\n"
    assert (
        said(
            client,
            {"role": "user", "content": [text, text]},
            {"role": "user", "content": "y"},
            {"role": "assistant", "content": []},
            {"role": "system", "content": [text]},
            {"role": "user", "content": "z"},
        )
        == "user\nx\nx\ny\nassistant\n\nsystem\nx\nuser\nz\nassistant\n"
    )


@pytest.mark.parametrize("written", [{"a": 1}, '{"a": 1}', '{"a": ', "nothing"])
def test_calls_of_the_history_are_as_the_model_wrote_them(
    client: anthropic.Anthropic, written: Any
) -> None:
    call: Any = {"type": "tool_use", "id": "c", "name": "f", "input": written}
    orphan: Any = {"type": "tool_result", "tool_use_id": "other", "content": "42"}
    text = said(
        client,
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [orphan]},
    )
    arguments = written if isinstance(written, str) else json.dumps(written)
    assert f'<tool_call>\n{{"name": "f", "arguments": {arguments}}}\n</tool_call>' in text
    assert "<tool_response>\n42\n</tool_response>" in text


def test_documents_and_search_results_become_text(client: anthropic.Anthropic) -> None:
    content: Any = [
        {
            "type": "document",
            "title": "T",
            "context": "C",
            "source": {"type": "text", "media_type": "text/plain", "data": "D"},
            "citations": {"enabled": False},
        },
        {
            "type": "document",
            "source": {"type": "content", "content": [{"type": "text", "text": "E"}]},
        },
        {
            "type": "search_result",
            "title": "R",
            "source": "https://example.com",
            "content": [{"type": "text", "text": "S"}],
        },
    ]
    text = said(client, {"role": "user", "content": content})
    assert text == "user\nT\nC\nD\nE\nR\nhttps://example.com\nS\nassistant\n"
    cited = [content[0] | {"citations": {"enabled": True}}]
    with pytest.raises(anthropic.BadRequestError) as caught:
        said(client, {"role": "user", "content": cited})
    assert "messages[0].content[0].citations.enabled" in str(caught.value)
