"""InternVL3.5's thinking mode in the prompt."""

from pathlib import Path

import pytest
from internvl_server.checkpoint.files import load_checkpoint
from internvl_server.core import Conversation, Message, TextPart, Thinking
from internvl_server.errors import StartupError, UnsupportedParameterError
from internvl_server.prompt.builder import PromptBuilder, PromptSkeleton
from internvl_server.prompt.checkpoint.template import CheckpointTemplate
from internvl_server.prompt.template import DEFAULT_SYSTEM_TEXT, InternVL25Template, Template
from internvl_server.prompt.thinking import THINKING_SYSTEM_TEXT, ThinkingMode
from internvl_server.prompt.tokenizer import PromptTokenizer, load_tokenizer
from internvl_server.settings import ModelSettings

ON, OFF = Thinking(True, "enable_thinking"), Thinking(False, "enable_thinking")
CAN = ThinkingMode(can_think=True)
# As Qwen3's template begins an answer.
SWITCH = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and "
    "not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


@pytest.fixture(scope="session")
def thinking_tokenizer(thinking_checkpoint: Path) -> PromptTokenizer:
    return load_tokenizer(thinking_checkpoint)


def said(role: str, text: str) -> Message:
    return Message(role, (TextPart(text),))


class Prompts:
    """Prompts of the checkpoint that can think."""

    def __init__(self, folder: Path, tokenizer: PromptTokenizer) -> None:
        self.checkpoint = load_checkpoint(ModelSettings(path=str(folder)))
        self.tokenizer = tokenizer

    def skeleton(
        self,
        *messages: Message,
        thinking: Thinking = ON,
        template: Template | None = None,
        mode: ThinkingMode = CAN,
        is_continued: bool = False,
        begins_answer: bool = True,
    ) -> PromptSkeleton:
        chosen = template or InternVL25Template()
        builder = PromptBuilder(
            self.checkpoint, self.tokenizer, chosen, max_model_len=2048, thinking=mode
        )
        conversation = Conversation(messages, (), is_continued, begins_answer, thinking)
        return builder.skeleton(conversation)

    def text(self, skeleton: PromptSkeleton) -> str:
        ids = [i for piece in skeleton.pieces if isinstance(piece, list) for i in piece]
        return self.tokenizer.text_of(ids)


@pytest.fixture
def prompts(thinking_checkpoint: Path, thinking_tokenizer: PromptTokenizer) -> Prompts:
    return Prompts(thinking_checkpoint, thinking_tokenizer)


def test_the_card_s_text_replaces_the_default_system_text(prompts: Prompts) -> None:
    made = prompts.skeleton(said("user", "hi"))
    expected = (
        f"<|im_start|>system\n{THINKING_SYSTEM_TEXT}<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert prompts.text(made) == expected
    assert made.answer_start == "anything"
    for thinking in (OFF, Thinking()):
        plain = prompts.skeleton(said("user", "hi"), thinking=thinking)
        assert prompts.text(plain) == expected.replace(THINKING_SYSTEM_TEXT, DEFAULT_SYSTEM_TEXT)


def test_its_tags_are_single_tokens_as_in_the_reference(
    prompts: Prompts, thinking_tokenizer: PromptTokenizer
) -> None:
    """The whole prompt as the full tokenizer, which knows all added tokens, encodes it."""
    made = prompts.skeleton(said("user", "hi"))
    [ids] = [[i for piece in made.pieces if isinstance(piece, list) for i in piece]]
    assert thinking_tokenizer.think_ids is not None
    assert set(thinking_tokenizer.think_ids) <= set(ids)
    full = thinking_tokenizer._full.encode(prompts.text(made), add_special_tokens=False).ids
    assert ids == full


def test_a_system_message_follows_the_card_s_text(prompts: Prompts) -> None:
    made = prompts.text(prompts.skeleton(said("system", "Be brief."), said("user", "hi")))
    assert f"system\n{THINKING_SYSTEM_TEXT}\n\nBe brief.<|im_end|>" in made


def test_a_system_message_that_asks_for_the_tags_stays_as_it_is(prompts: Prompts) -> None:
    text = "Reason within <think> and </think>."
    made = prompts.text(prompts.skeleton(said("system", text), said("user", "hi")))
    assert f"system\n{text}<|im_end|>" in made


def test_a_template_with_a_switch_gets_it(prompts: Prompts) -> None:
    template = CheckpointTemplate(SWITCH, prompts.tokenizer.control_pattern)
    thinks = prompts.skeleton(said("user", "hi"), template=template)
    assert prompts.text(thinks).endswith("<|im_start|>assistant\n")
    assert "protocol" not in prompts.text(thinks)
    assert thinks.answer_start == "anything"
    declines = prompts.skeleton(said("user", "hi"), template=template, thinking=OFF)
    assert prompts.text(declines).endswith("assistant\n<think>\n\n</think>\n\n")
    assert declines.answer_start == "text"


def test_a_template_may_begin_the_reasoning(prompts: Prompts) -> None:
    source = SWITCH.replace("not enable_thinking %}<think>\n\n</think>\n\n", "true %}<think>\n")
    template = CheckpointTemplate(source, prompts.tokenizer.control_pattern)
    assert prompts.skeleton(said("user", "hi"), template=template).answer_start == "reasoning"


def test_a_template_without_a_switch_gets_the_card_s_text(prompts: Prompts) -> None:
    source = SWITCH.replace("enable_thinking", "another")
    template = CheckpointTemplate(source, prompts.tokenizer.control_pattern)
    made = prompts.text(prompts.skeleton(said("user", "hi"), template=template))
    assert made.startswith(f"<|im_start|>system\n{THINKING_SYSTEM_TEXT}<|im_end|>")


@pytest.mark.parametrize(
    ("begun", "start"),
    [
        ("", "anything"),
        ("<think>\nLet me", "reasoning"),
        ("\n<think>", "reasoning"),
        ("<think>\nyes\n</think>\n\nIt is", "text"),
        ("The tag <think>", "text"),
    ],
)
def test_an_answer_that_is_continued(prompts: Prompts, begun: str, start: str) -> None:
    made = prompts.skeleton(said("user", "hi"), said("assistant", begun), is_continued=True)
    assert prompts.text(made).endswith(f"<|im_start|>assistant\n{begun}")
    assert made.answer_start == start


def test_a_turn_that_has_ended_is_not_continued(prompts: Prompts) -> None:
    last = said("assistant", "<think>\nLet me")
    assert prompts.skeleton(said("user", "hi"), last, begins_answer=False).answer_start == "text"


def test_earlier_reasoning_is_left_out(prompts: Prompts) -> None:
    made = prompts.text(
        prompts.skeleton(
            said("user", "a"),
            said("assistant", "\n<think>\nhm\n</think>\n\nb </think>"),
            said("user", "<think>kept</think>"),
            said("assistant", "see <think>x</think>"),
            said("user", "c"),
            said("assistant", "<think>cut"),
            said("user", "d"),
            thinking=Thinking(),
        )
    )
    for role, text in [
        ("assistant", "b </think>"), ("user", "<think>kept</think>"),
        ("assistant", "see <think>x</think>"), ("assistant", "<think>cut"),
    ]:  # fmt: skip
        assert f"<|im_start|>{role}\n{text}<|im_end|>" in made


def test_earlier_reasoning_in_several_parts_is_left_out(prompts: Prompts) -> None:
    parts = ("<think>\nhm", "\n</think>\n", "\nb", " c")
    answer = Message("assistant", tuple(TextPart(text) for text in parts))
    made = prompts.text(prompts.skeleton(said("user", "a"), answer, said("user", "d")))
    assert "<|im_start|>assistant\nb c<|im_end|>" in made


def test_a_model_that_cannot_think_refuses_by_name_and_changes_nothing(prompts: Prompts) -> None:
    off = ThinkingMode()
    with pytest.raises(
        UnsupportedParameterError, match=r"'enable_thinking'.*does not reason"
    ) as got:
        prompts.skeleton(said("user", "hi"), mode=off)
    assert got.value.param == "enable_thinking"
    messages = said("user", "a"), said("assistant", "<think>x</think>b"), said("user", "c")
    made = prompts.skeleton(*messages, mode=off, thinking=OFF)
    assert "assistant\n<think>x</think>b<|im_end|>" in prompts.text(made)
    assert made.answer_start == "text"


def test_a_format_excludes_it(prompts: Prompts) -> None:
    thinking = Thinking(True, "enable_thinking", "response_format")
    made = prompts.skeleton(said("user", "hi"), thinking=thinking)
    assert DEFAULT_SYSTEM_TEXT in prompts.text(made)
    assert made.warnings == (
        "The answer has no reasoning: 'response_format' says what all of it must be.",
    )
    begun = said("user", "hi"), said("assistant", "<think>\nLet me")
    continued = prompts.skeleton(*begun, thinking=thinking, is_continued=True)
    assert continued.answer_start == "text"
    declined = Thinking(False, "enable_thinking", "response_format")
    assert prompts.skeleton(said("user", "hi"), thinking=declined).warnings == ()


@pytest.mark.parametrize(
    ("setting", "has_tokens", "mode"),
    [
        ("auto", True, ThinkingMode(can_think=True)),
        ("auto", False, ThinkingMode()),
        ("on", True, ThinkingMode(can_think=True, by_default=True)),
        ("off", True, ThinkingMode()),
        ("off", False, ThinkingMode()),
    ],
)
def test_the_setting(setting: str, has_tokens: bool, mode: ThinkingMode) -> None:
    assert ThinkingMode.of(setting, has_tokens=has_tokens) == mode


def test_the_setting_on_needs_the_tokens(tokenizer: PromptTokenizer) -> None:
    assert tokenizer.think_ids is None
    with pytest.raises(StartupError, match=r"model\.thinking"):
        ThinkingMode.of("on", has_tokens=False)


def test_what_a_server_does_by_default() -> None:
    on = ThinkingMode(can_think=True, by_default=True)
    assert (on.resolve(Thinking())[0], on.resolve(OFF)[0]) == (True, False)
    assert (CAN.resolve(Thinking())[0], CAN.resolve(ON)[0]) == (False, True)
