import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from internvl_server.checkpoint.files import load_checkpoint
from internvl_server.core import (
    Conversation,
    Detail,
    ImageReference,
    Message,
    TextPart,
    Tool,
    ToolCall,
)
from internvl_server.errors import Field, UnsupportedParameterError
from internvl_server.prompt.builder import PromptBuilder
from internvl_server.prompt.checkpoint.template import CheckpointTemplate
from internvl_server.prompt.segments import Control, ImagePlaceholder, Segment
from internvl_server.prompt.template import DEFAULT_SYSTEM_TEXT, InternVL25Template, Template
from internvl_server.prompt.tokenizer import PromptTokenizer, load_tokenizer
from internvl_server.settings import DEMO_MODEL, ModelSettings

NAMES = ["<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<ref>", "<box>"]
CONTROL = re.compile("|".join(map(re.escape, NAMES)))

# Every way templates write tools and calls: as JSON, as JSON in JSON, by hand, as tags.
ALL_WAYS = r"""
{%- for tool in tools or [] %}{{ tool | tojson }}{{ tool | tojson | tojson(ensure_ascii=true) }}
{{- tool.function.name }}|{{ tool.function.description | trim }}|
{%- for name, field in (tool.function.parameters.properties or {}) | dictsort %}<{{ name }}>
{%- if field.type == "string" %}(text){% endif %}
{%- if name in tool.function.parameters.required %}(required){% endif %}{% endfor %}
{%- endfor %}
{%- for m in messages %}<|im_start|>{{ m.role }} {{ m.tool_call_id }} {{ m.content }}
{%- for call in m.tool_calls or [] %}<tool_call>{{ call.id }} {{ call.function.name }}
{{- call.function.arguments | tojson(indent=1) }}
{%- for name, value in call.function.arguments.items() %}<{{ name }}>{{ value }}</{{ name }}>{% endfor %}
{%- endfor %}<|im_end|>{% endfor %}
"""


def conversed(word: str, *parts: ImageReference, name: str = "look") -> Conversation:
    """A conversation in which everything a client can choose is, or has, the word."""
    properties = {word: {"type": "string", "description": word, "enum": [word]}}
    schema = {"type": "object", "properties": properties, "required": [word]}
    call = ToolCall(word or "id", name, json.dumps({word: word, "all": [word]}))
    broken = ToolCall(word, name, f'{{"{word}": {word}')
    calls = (call, call, broken) if name != "look" else (call, call)
    return Conversation(
        (
            Message("system", (TextPart(word),)),
            Message("user", (*parts, TextPart(word))),
            Message("assistant", (TextPart(word),), calls),
            Message("tool", (TextPart(word),), tool_call_id=call.id),
        ),
        (Tool("look", word, schema), Tool("other", None)),
    )


def shown(segments: list[Segment]) -> str:
    return "".join(s.name if isinstance(s, Control) else str(s) for s in segments)


def controls(template: Template, conversation: Conversation) -> list[Control]:
    return [s for s in template.render(conversation) if isinstance(s, Control)]


HOSTILE = st.text(max_size=10) | st.sampled_from(
    [
        *NAMES,
        "ref",
        "box",
        "tool_call",
        "|im_end|",
        "type",
        "object",
        '"\\',
        "⧼0⧽",
        "⧼0⧾⧽",
        "{{ 7 }}",
    ]
)


@pytest.mark.parametrize("template", [InternVL25Template(), CheckpointTemplate(ALL_WAYS, CONTROL)])
@given(word=HOSTILE)
def test_nothing_a_client_writes_becomes_a_control_token(template: Template, word: str) -> None:
    assert controls(template, conversed(word)) == controls(template, conversed("harmless"))


# As templates write them: arguments are JSON, whatever they are.
ORDINARY = r"""
{%- for tool in tools or [] %}{{ tool | tojson }}{% endfor %}
{%- for m in messages %}<|im_start|>{{ m.role }} {{ m.tool_call_id }} {{ m.content }}
{%- for call in m.tool_calls or [] %}<tool_call>{{ call.function.name }} {{ call.id }}
{{- call.function.arguments | tojson }} {{ call }}</tool_call>{% endfor %}<|im_end|>{% endfor %}
"""
MARKS = [
    "<ref>",
    "</box>",
    "<image>",
    "<IMAGE_TOKEN>",
    "<video>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
]
TEXT = st.lists(HOSTILE | st.sampled_from(MARKS), max_size=6).map("".join)
PICTURES = st.integers(0, 3).map(lambda n: (ImageReference("data:,", Detail.AUTO, None, "x"),) * n)


@pytest.mark.parametrize("name", ["internvl2_5", "checkpoint"])
@settings(max_examples=200)
@given(word=TEXT, function=TEXT, pictures=PICTURES)
def test_client_text_adds_no_control_tokens(
    name: str,
    word: str,
    function: str,
    pictures: tuple[ImageReference, ...],
    tiny_checkpoint: Path,
    tokenizer: PromptTokenizer,
) -> None:
    """The control ids are the template's, in its order; of the others only content markers are added."""
    template: Template = InternVL25Template()
    if name == "checkpoint":
        template = CheckpointTemplate(ORDINARY, tokenizer.control_pattern)
    builder = built(tiny_checkpoint, tokenizer, template)

    def added(conversation: Conversation) -> list[int | None]:
        """The added tokens in the order of the prompt, without content markers; None is an image."""
        ids: list[int | None] = []
        for piece in builder.skeleton(conversation).pieces:
            ids += [None] if isinstance(piece, ImagePlaceholder) else piece
        known = set(tokenizer._added) - set(tokenizer.content_ids.values())
        return [i for i in ids if i is None or i in known]

    hostile = added(conversed(word, *pictures, name="x" + function))
    assert hostile == added(conversed("harmless", *pictures, name="harmless"))


def built(folder: Path, tokenizer: PromptTokenizer, template: Template) -> PromptBuilder:
    checkpoint = load_checkpoint(ModelSettings(path=str(folder)))
    return PromptBuilder(checkpoint, tokenizer, template, max_model_len=2048)


def test_a_tokenizer_without_the_tags_writes_them_as_text() -> None:
    tokenizer = load_tokenizer(DEMO_MODEL)
    assert "<tool_call>" not in tokenizer.control_ids
    (ids,) = [
        piece
        for piece in built(DEMO_MODEL, tokenizer, InternVL25Template())
        .skeleton(conversed("x"))
        .pieces
        if '{"name": "look", "arguments"' in tokenizer.decode(piece)
    ]
    assert '<tool_call>\n{"name": "look", "arguments": {"x": "x", "all": ["x"]}}\n</tool_call>' in (
        tokenizer.decode(ids)
    )


def test_a_template_sees_words_of_schemas() -> None:
    text = shown(CheckpointTemplate(ALL_WAYS, CONTROL).render(conversed('a "b"')))
    assert '<a "b">(text)(required)' in text
    tool = json.dumps({"a": 'a "b"'})[6:-1]
    assert f'"description": {tool}' in text
    assert f'"description\\": {json.dumps(tool)[1:-1]}' in text


@given(word=st.text(max_size=6))
def test_json_of_a_template_is_what_the_client_sent(word: str) -> None:
    source = "{% for t in tools %}{{ t | tojson(indent=2) }}\x00{{ t | tojson | tojson }}\x00{% endfor %}"
    conversation = conversed(word)
    template = CheckpointTemplate(source, CONTROL)
    text = shown(template.render(Conversation(conversation.messages[:2], conversation.tools)))
    once, twice, *_ = text.split("\x00")
    assert json.loads(once) == json.loads(json.loads(twice))
    assert json.loads(once)["function"] == {
        "name": "look",
        "description": word,
        "parameters": conversation.tools[0].parameters,
    }


@pytest.mark.parametrize(
    ("source", "param"),
    [
        ("{% for m in messages %}{{ m.content }}{{ m.tool_calls }}{% endfor %}", Field.TOOLS),
        ("{{ tools | tojson }}{{ messages[0].content }}", Field.PROMPT),
    ],
)
def test_a_template_that_omits_tools_or_calls_is_refused(source: str, param: Field) -> None:
    conversation = conversed("x")
    template = CheckpointTemplate(source, CONTROL)
    call = Message("assistant", (), (ToolCall("c", "gone", "{}"),))
    with pytest.raises(UnsupportedParameterError) as caught:
        template.render(Conversation((*conversation.messages, call), conversation.tools))
    assert caught.value.param == param


SAID = (Message("user", (TextPart("hi"),)), Message("assistant", (TextPart("Well, "),)))
SOURCE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("template", [InternVL25Template(), CheckpointTemplate(SOURCE, CONTROL)])
@pytest.mark.parametrize(
    ("goes_on", "begins", "end"),
    [
        (True, True, "<|im_start|>assistant\nWell, "),
        (True, False, "<|im_start|>assistant\nWell, "),
        (False, False, "<|im_start|>assistant\nWell, <|im_end|>\n"),
        (False, True, "<|im_start|>assistant\nWell, <|im_end|>\n<|im_start|>assistant\n"),
    ],
)
def test_a_prompt_ends_where_the_answer_begins(
    template: Template, goes_on: bool, begins: bool, end: str
) -> None:
    conversation = Conversation(SAID, continue_final_message=goes_on, add_generation_prompt=begins)
    assert shown(template.render(conversation)).endswith("<|im_start|>user\nhi<|im_end|>\n" + end)


@pytest.mark.parametrize("template", [InternVL25Template(), CheckpointTemplate(SOURCE, CONTROL)])
def test_an_empty_message_can_be_continued(template: Template) -> None:
    conversation = Conversation((SAID[0], Message("assistant", ())), continue_final_message=True)
    assert shown(template.render(conversation)).endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_a_template_that_omits_the_last_message_cannot_continue_it() -> None:
    template = CheckpointTemplate("{{ messages[0].content }}", CONTROL)
    with pytest.raises(UnsupportedParameterError) as caught:
        template.render(Conversation(SAID, continue_final_message=True))
    assert caught.value.param == "continue_final_message"


def test_tools_follow_the_default_system_text_too() -> None:
    conversation = Conversation(SAID[:1], (Tool("ping"),))
    text = shown(InternVL25Template().render(conversation))
    assert text.startswith(f"<|im_start|>system\n{DEFAULT_SYSTEM_TEXT}\n\n# Tools\n\n")
    line = '{"type": "function", "function": {"name": "ping", "parameters": {"type": "object"}}}'
    assert f"<tools>\n{line}\n</tools>" in text


def test_a_schema_word_in_a_control_token_is_protected() -> None:
    source = (
        "{% for t in tools %}{{ t.function.name }}"
        "{% for name in t.function.parameters.properties %}<{{ name }}>{% endfor %}{% endfor %}"
    )
    schema = {"type": "object", "properties": {"title": {}, "format": {}}}
    conversation = Conversation(SAID[:1], (Tool("f", None, schema),))
    segments = CheckpointTemplate(source, re.compile("<title>")).render(conversation)
    assert shown(segments) == "f<title><format>"
    assert not any(isinstance(segment, Control) for segment in segments)


def test_a_template_may_write_tools_as_python_does() -> None:
    conversation = Conversation(SAID[:1], (Tool("look", "Look!"),))
    text = shown(CheckpointTemplate("{{ tools }}", CONTROL).render(conversation))
    assert "'name': 'look', 'description': 'Look!'" in text
