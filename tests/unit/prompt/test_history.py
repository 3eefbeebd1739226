"""What a client sends of earlier turns, in both templates."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from internvl_server.checkpoint.files import load_checkpoint
from internvl_server.core import Conversation, Detail, ImageReference, Message, TextPart, ToolCall
from internvl_server.prompt.builder import PromptBuilder
from internvl_server.prompt.checkpoint.template import CheckpointTemplate
from internvl_server.prompt.history import order_results
from internvl_server.prompt.segments import Control, Segment
from internvl_server.prompt.template import InternVL25Template, Template
from internvl_server.prompt.tokenizer import PromptTokenizer
from internvl_server.settings import ModelSettings

CONTROL = re.compile(r"<\|im_start\|>|<\|im_end\|>|</?tool_call>")
# How the templates of Qwen2.5 and of Qwen3 write a call.
CALLS = (
    "{%% for m in messages %%}{%% for c in m.tool_calls or [] %%}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": %s}\n</tool_call>{%% endfor %%}{%% endfor %%}'
)
QWEN25 = CALLS % "{{ c.function.arguments | tojson }}"
QWEN3 = CALLS % (
    "{% if c.function.arguments is string %}{{ c.function.arguments }}"
    "{% else %}{{ c.function.arguments | tojson }}{% endif %}"
)
WHOLE = (
    "{% for m in messages %}{% for c in m.tool_calls or [] %}<tool_call>\n{{ c.function | tojson }}\n"
    "</tool_call>{% endfor %}{% endfor %}"
)
TEMPLATES = pytest.mark.parametrize(
    "template",
    [InternVL25Template(), *(CheckpointTemplate(s, CONTROL) for s in (QWEN25, QWEN3, WHOLE))],
)
BROKEN = [
    '{"city": "Ber', '{"city": "the "big" one"}', "{'city': 1}", '{"a": "\\ud800"}', '{"a": NaN}',
    "[1]", '"x"', "null", "city=Berlin", '{"a": ' + "[" * 5000, '{"a": 9' + "9" * 5000 + "}",
    "⧼0⧽", '"⧼0⧻⧽"',
]  # fmt: skip


def shown(segments: list[Segment]) -> str:
    return "".join(s.name if isinstance(s, Control) else str(s) for s in segments)


def called(arguments: str, name: str = "look") -> Conversation:
    call = ToolCall("c1", name, arguments)
    return Conversation((Message("user", ()), Message("assistant", (), (call,))))


def call_text(template: Template, conversation: Conversation) -> str:
    found = re.search("<tool_call>\n(.*)\n</tool_call>", shown(template.render(conversation)), re.S)
    assert found is not None
    return found[1]


@TEMPLATES
@pytest.mark.parametrize("arguments", BROKEN)
def test_arguments_that_are_no_object_are_written_as_they_are(
    template: Template, arguments: str
) -> None:
    expected = f'{{"name": "look", "arguments": {arguments}}}'
    assert call_text(template, called(arguments)) == expected


@TEMPLATES
@given(text=st.text(max_size=20))
def test_any_text_may_be_arguments(template: Template, text: str) -> None:
    assert call_text(template, called("x" + text)) == f'{{"name": "look", "arguments": x{text}}}'


@TEMPLATES
@given(value=st.dictionaries(st.text(max_size=4), st.text(max_size=4) | st.integers()))
def test_an_object_is_an_object(template: Template, value: dict[str, Any]) -> None:
    text = call_text(template, called(json.dumps(value, ensure_ascii=False)))
    assert json.loads(text) == {"name": "look", "arguments": value}


def test_the_text_of_an_object_is_not_changed_by_our_template() -> None:
    text = call_text(InternVL25Template(), called('{"a":1.50, "a":"\\u00e9"}'))
    assert text == '{"name": "look", "arguments": {"a":1.50, "a":"\\u00e9"}}'


def test_any_name_is_one_string() -> None:
    text = call_text(InternVL25Template(), called("{}", 'a", "b": "c'))
    assert json.loads(text) == {"name": 'a", "b": "c', "arguments": {}}
    assert '"name": ""' in call_text(CheckpointTemplate(QWEN25, CONTROL), called("{}", ""))


def test_cut_off_text_in_json_in_json_is_escaped() -> None:
    source = "{% for m in messages %}{{ (m.tool_calls or []) | tojson | tojson }}\x00{% endfor %}"
    text = shown(CheckpointTemplate(source, CONTROL).render(called('{"city": "Ber')))
    inner = json.loads(text.split("\x00")[1])
    assert '"name": "look", "arguments": {"city": "Ber}' in inner


def turn(*ids: str) -> Message:
    return Message("assistant", (), tuple(ToolCall(call_id, "f", "{}") for call_id in ids))


def result(call_id: str | None, *parts: Any) -> Message:
    return Message("tool", (TextPart(str(call_id)), *parts), tool_call_id=call_id)


def test_results_are_in_the_order_of_their_calls() -> None:
    messages = [
        result("z"), turn("a", "b", "c"), result("c"), result("z"), result("a"), result("b"),
        Message("user", ()), turn("b", "a"), result("a"), result("b"), result(None),
    ]  # fmt: skip
    ordered = order_results(Conversation(tuple(messages))).messages
    ids = [message.tool_call_id for message in ordered if message.role == "tool"]
    assert ids == ["z", "a", "b", "c", "z", "b", "a", None]
    in_order = Conversation((turn("a", "b"), result("a"), result("b")))
    assert order_results(in_order) is in_order


@pytest.fixture(scope="module")
def builder(tiny_checkpoint: Path, tokenizer: PromptTokenizer) -> PromptBuilder:
    checkpoint = load_checkpoint(ModelSettings(path=str(tiny_checkpoint)))
    return PromptBuilder(checkpoint, tokenizer, InternVL25Template(), max_model_len=2048)


@pytest.mark.parametrize("order", ["abc", "cab"])
def test_calls_of_one_turn_may_be_several_messages(order: str) -> None:
    calls = [turn(name) for name in "abc"]
    ordered = order_results(Conversation((*calls, *map(result, order))))
    assert ordered.messages == (*calls, *map(result, "abc"))


def test_images_of_results_move_with_them(builder: PromptBuilder) -> None:
    a, b = (ImageReference(url, Detail.AUTO, None, "x") for url in "ab")
    skeleton = builder.skeleton(Conversation((turn("a", "b"), result("b", b), result("a", a))))
    assert skeleton.media_parts == (a, b)


@pytest.mark.parametrize(
    "messages",
    [
        [Message("assistant", ())],
        [Message("user", ()), Message("assistant", (TextPart(""),)), Message("user", ())],
        [Message("user", (TextPart("a"),)), Message("user", (TextPart("b"),))],
        [Message("assistant", (TextPart("a"),)), Message("assistant", (TextPart("b"),))],
        [result(None), turn("x"), Message("user", ()), turn("y")],
        [Message("user", ()), Message("system", (TextPart("s"),)), Message("system", ())],
    ],
)
def test_every_message_is_a_turn(messages: list[Message], builder: PromptBuilder) -> None:
    skeleton = builder.skeleton(Conversation(tuple(messages)))
    text = builder._tokenizer.text_of(builder.build(skeleton, ()).token_ids)
    num_turns = len(messages) + (messages[0].role != "system")
    assert text.count("<|im_end|>\n") == num_turns
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
