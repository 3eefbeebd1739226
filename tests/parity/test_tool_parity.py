"""Prompts with tools against transformers: its renderer, its tokenizer, a template in Qwen2.5's format."""

import json
from pathlib import Path
from typing import Any

import pytest
from internvl_server.checkpoint.files import load_checkpoint
from internvl_server.core import Conversation, Message, Role, TextPart, Tool, ToolCall
from internvl_server.prompt.builder import PromptBuilder
from internvl_server.prompt.checkpoint.template import CheckpointTemplate
from internvl_server.prompt.template import DEFAULT_SYSTEM_TEXT, InternVL25Template, Template
from internvl_server.prompt.tokenizer import PromptTokenizer
from internvl_server.settings import ModelSettings
from transformers import PreTrainedTokenizerFast

# Writes what the chat template in Qwen2.5's tokenizer_config.json writes, with InternVL's system text.
QWEN25 = r"""
{%- set has_system = messages[0].role == "system" %}
{{- "<|im_start|>system\n" + (messages[0].content if has_system else SYSTEM) }}
{%- if tools %}
{{- "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n" }}
{{- "You are provided with function signatures within <tools></tools> XML tags:\n<tools>" }}
{%- for tool in tools %}{{ "\n" + tool | tojson }}{% endfor %}
{{- "\n</tools>\n\nFor each function call, return a json object with function name and arguments within " }}
{{- "<tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, " }}
{{- "\"arguments\": <args-json-object>}\n</tool_call>" }}
{%- endif %}
{{- "<|im_end|>\n" }}
{%- for m in (messages[1:] if has_system else messages) %}
{%- if m.role == "tool" %}
{%- if loop.previtem is not defined or loop.previtem.role != "tool" %}{{ "<|im_start|>user" }}{% endif %}
{{- "\n<tool_response>\n" + m.content + "\n</tool_response>" }}
{%- if loop.nextitem is not defined or loop.nextitem.role != "tool" %}{{ "<|im_end|>\n" }}{% endif %}
{%- else %}
{{- "<|im_start|>" + m.role }}
{%- if m.content or not m.tool_calls %}{{ "\n" + m.content }}{% endif %}
{%- for call in m.tool_calls or [] %}
{{- "\n<tool_call>\n{\"name\": \"" + call.function.name + "\", \"arguments\": " }}
{{- call.function.arguments | tojson + "}\n</tool_call>" }}
{%- endfor %}
{{- "<|im_end|>\n" }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ "<|im_start|>assistant\n" }}{% endif %}
""".strip().replace("SYSTEM", repr(DEFAULT_SYSTEM_TEXT))

TOOLS = (
    Tool(
        "get_weather",
        'The weather "now", in °C.\nOne line <b>each</b> \\ city.',
        {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Köln", "北京"]},
                "days": {"type": "integer", "default": 1},
            },
            "required": ["city"],
        },
    ),
    Tool("ping"),
)


def said(role: Role, text: str, *calls: ToolCall, answers: str | None = None) -> Message:
    return Message(role, (TextPart(text),) if text else (), calls, answers)


KOELN = ToolCall(
    "c1", "get_weather", '{"city": "Köln", "days": 1.5e+20, "x": [true, null, "\\n\\""]}'
)
PING = ToolCall("c2", "ping", "{}")
ASKED = said("user", "How is it in Köln?\n")
SYSTEM = said("system", "Be brief. ")
ROUND = (ASKED, said("assistant", "", KOELN), said("tool", '{"t": 3}', answers="c1"))
PARALLEL = (
    ASKED,
    said("assistant", "I look.", KOELN, PING),
    said("tool", "  3 ° ", answers="c1"),
    said("tool", "pong", answers="c2"),
    said("assistant", "3 °"),
)
MARKED = "<ref>the red circle</ref><box>[[1, 2, 3, 4]]</box><quad>x</quad>"
CONTENT_MARKERS = (
    said("system", MARKED),
    said("user", f"Where is {MARKED}?"),
    said("assistant", MARKED, ToolCall("c1", "ping", json.dumps({"where": MARKED}))),
    said("tool", MARKED, answers="c1"),
)
CONVERSATIONS = {
    "no tools": Conversation((SYSTEM, ASKED)),
    "tools": Conversation((ASKED,), TOOLS),
    "system and tools": Conversation((SYSTEM, ASKED), TOOLS),
    "one call": Conversation(ROUND, TOOLS),
    "parallel calls": Conversation((SYSTEM, *PARALLEL), TOOLS),
    "several rounds": Conversation((*ROUND, said("assistant", "Cold."), *PARALLEL, ASKED), TOOLS[:1]),
    "calls without tools": Conversation(PARALLEL),
    "an unanswered call": Conversation((ASKED, said("assistant", "I look.", PING), ASKED), TOOLS),
    "content markers": Conversation(CONTENT_MARKERS, (Tool("ping", MARKED),)),
    "no generation prompt": Conversation(PARALLEL, TOOLS, add_generation_prompt=False),
    "an answer that goes on": Conversation(PARALLEL, TOOLS, continue_final_message=True),
}  # fmt: skip


def as_transformers(message: Message) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "role": message.role,
        "content": "".join(part.text for part in message.content if isinstance(part, TextPart)),
    }
    if message.tool_calls:
        shown["tool_calls"] = [
            {"function": {"name": call.name, "arguments": json.loads(call.arguments)}}
            for call in message.tool_calls
        ]
    return shown


def tool_as_transformers(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description}
    function = {key: value for key, value in function.items() if value is not None}
    return {
        "type": "function",
        "function": function | {"parameters": tool.parameters},
    }


@pytest.fixture(scope="module")
def reference(tiny_checkpoint: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_file=str(tiny_checkpoint / "tokenizer.json"), chat_template=QWEN25
    )


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("template_name", ["internvl2_5", "checkpoint"])
def test_ids_are_those_of_transformers(
    name: str,
    template_name: str,
    reference: PreTrainedTokenizerFast,
    tiny_checkpoint: Path,
    tokenizer: PromptTokenizer,
) -> None:
    conversation = CONVERSATIONS[name]
    template: Template = InternVL25Template()
    if template_name == "checkpoint":
        template = CheckpointTemplate(QWEN25, tokenizer.control_pattern)
    checkpoint = load_checkpoint(ModelSettings(path=str(tiny_checkpoint)))
    builder = PromptBuilder(checkpoint, tokenizer, template, max_model_len=2048)
    expected = reference.apply_chat_template(
        [as_transformers(message) for message in conversation.messages],
        tools=[tool_as_transformers(tool) for tool in conversation.tools] or None,
        add_generation_prompt=(
            conversation.add_generation_prompt and not conversation.continue_final_message
        ),
        continue_final_message=conversation.continue_final_message,
        return_dict=False,
    )
    ids = builder.build(builder.skeleton(conversation), ()).token_ids
    assert tokenizer._full.decode(ids, skip_special_tokens=False) == reference.decode(expected)
    assert list(ids) == expected


def test_calls_are_marked_with_the_tokenizers_own_tokens(
    reference: PreTrainedTokenizerFast, tokenizer: PromptTokenizer
) -> None:
    """Else the parity above would say little of them."""
    ids = reference.encode("<tool_call>", add_special_tokens=False)
    assert ids == [tokenizer.control_id("<tool_call>")]
