import json
from pathlib import Path

import numpy as np
import pytest
from internvl_server import startup_check
from internvl_server.app import create_app
from internvl_server.core import Conversation
from internvl_server.errors import InvalidRequestError, StartupError
from internvl_server.media.pixels.levels import level_values
from internvl_server.prompt.segments import Control, Segment
from internvl_server.prompt.template import DEFAULT_SYSTEM_TEXT, InternVL25Template
from internvl_server.prompt.tokenizer import PromptTokenizer, load_tokenizer
from internvl_server.settings import Settings
from internvl_server.startup_check import (
    GOLDEN_GRIDS,
    StartupCheck,
    fingerprint_of,
    run_startup_check,
)
from PIL import Image

REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "tiling.json").read_text())["grids"]


class TalkativeTemplate(InternVL25Template):
    """One newline more than the model was trained with."""

    def render(self, conversation: Conversation) -> list[Segment]:
        return [*super().render(conversation), "\n"]


class OtherTemplate(TalkativeTemplate):
    name = "checkpoint"


class PickyTemplate(OtherTemplate):
    def render(self, conversation: Conversation) -> list[Segment]:
        if len(conversation.messages) > 1:
            raise InvalidRequestError("no")
        return super().render(conversation)


@pytest.fixture
def check(tokenizer: PromptTokenizer) -> StartupCheck:
    return run_startup_check(InternVL25Template(), tokenizer)


def test_the_stored_grids_are_the_references() -> None:
    for (width, height, cap), grid in GOLDEN_GRIDS.items():
        assert REFERENCE[f"{width}x{height}"][str(cap)][:2] == list(grid)


def test_the_stored_template_is_the_published_format() -> None:
    first, second, third = (
        startup_check.written_prompt(InternVL25Template(), c) for c in startup_check._SAMPLES
    )
    begin, end = "\0<|im_start|>\0", "\0<|im_end|>\0"
    assert first == (
        f"{begin}system\n{DEFAULT_SYSTEM_TEXT}{end}\n{begin}user\n\0000\0\nWhat is this?{end}\n"
        f"{begin}assistant\n"
    )
    assert second == (
        f"{begin}system\nBe brief.{end}\n"
        f"{begin}user\nImage-1: \0000\0\nImage-2: \0001\0\n<|im_end|> What differs?{end}\n"
        f"{begin}assistant\nNothing.{end}\n{begin}user\nSure?{end}\n{begin}assistant\n"
    )
    call, call_end = "\0<tool_call>\0", "\0</tool_call>\0"
    result, result_end = "\0<tool_response>\0", "\0</tool_response>\0"
    assert f"{call}{call_end} XML tags:" in third
    assert third.endswith(
        f"{begin}user\nLook.{end}\n"
        f'{begin}assistant\nYes.\n{call}\n{{"name": "look", "arguments": {{"at": "é"}}}}\n{call_end}{end}\n'
        f"{begin}user\n{result}\nA cat.\n{result_end}\n{result}\n<tool_call>\n{result_end}{end}\n"
        f"{begin}assistant\n"
    )


def test_hashes_name_what_they_are_of(
    check: StartupCheck, tokenizer: PromptTokenizer, tiny_checkpoint: Path
) -> None:
    assert run_startup_check(InternVL25Template(), load_tokenizer(tiny_checkpoint)) == check
    other = run_startup_check(OtherTemplate(), tokenizer)
    assert other.template_hash != check.template_hash
    assert other.tokenizer_hash == check.tokenizer_hash
    assert run_startup_check(PickyTemplate(), tokenizer).template_hash != other.template_hash


def test_text_and_control_tokens_are_told_apart() -> None:
    class Forged(OtherTemplate):
        def render(self, conversation: Conversation) -> list[Segment]:
            written = super().render(conversation)
            return [s.name if isinstance(s, Control) else s for s in written]

    assert startup_check._template_hash(Forged()) != startup_check._template_hash(OtherTemplate())


def test_the_fingerprint_changes_with_each_of_its_parts(check: StartupCheck) -> None:
    config = "hash"
    prints = {
        fingerprint_of(check, "1", config),
        fingerprint_of(check, "2", config),
        fingerprint_of(check, "1", "other hash"),
        fingerprint_of(StartupCheck("x", check.tokenizer_hash, check.tiles_hash), "1", config),
        fingerprint_of(StartupCheck(check.template_hash, "x", check.tiles_hash), "1", config),
        fingerprint_of(StartupCheck(check.template_hash, check.tokenizer_hash, "x"), "1", config),
    }
    assert len(prints) == 6
    assert fingerprint_of(check, "1", config) in prints


def test_another_grid_is_noticed(
    tokenizer: PromptTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup_check, "select_grid", lambda *size, max_tiles: (1, 1))
    with pytest.raises(
        StartupError, match=r"634x634 pixels .* a grid of \(1, 1\) instead of \(2, 2\)"
    ):
        run_startup_check(InternVL25Template(), tokenizer)


def test_another_normalisation_is_noticed(
    tokenizer: PromptTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    nearly = np.nextafter(level_values(), np.float32(9))
    monkeypatch.setattr(startup_check, "level_values", lambda: nearly)
    with pytest.raises(StartupError, match="normalised"):
        run_startup_check(InternVL25Template(), tokenizer)


def test_another_resize_is_noticed(
    tokenizer: PromptTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call of Pillow 13 instead of two."""

    class OneCall:
        def planes(self, image: Image.Image, size: tuple[int, int]) -> list[np.ndarray]:
            resized = image.resize(size, Image.Resampling.BICUBIC)
            return [np.asarray(band) for band in resized.split()]

    monkeypatch.setattr(startup_check, "ExactResizer", OneCall)
    with pytest.raises(StartupError, match="resized images"):
        run_startup_check(InternVL25Template(), tokenizer)


def test_another_prompt_is_noticed(tokenizer: PromptTokenizer) -> None:
    with pytest.raises(StartupError, match="prompts of the template internvl2_5 differ"):
        run_startup_check(TalkativeTemplate(), tokenizer)


def test_the_server_does_not_start_then(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup_check, "select_grid", lambda *size, max_tiles: (1, 1))
    settings = Settings(model={"path": str(tiny_checkpoint)}, engine={"kind": "echo"})
    with pytest.raises(StartupError, match="self-check failed"):
        create_app(settings)
