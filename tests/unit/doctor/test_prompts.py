"""Tokenizers, templates and tiles that are as the model knows them, and others."""

import json
import re

import pytest
from internvl_server import startup_check
from internvl_server.doctor import prompts
from internvl_server.prompt.template import DEFAULT_SYSTEM_TEXT

from scripts.make_random_checkpoint import SHAPES, write_checkpoint

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(params=["hf", "authors"])
def folder(request, tmp_path):
    path = tmp_path / "my-model"
    write_checkpoint(path, SHAPES["tiny"], layout=request.param, dtype="float16")
    (path / "chat_template.jinja").unlink(missing_ok=True)
    return path


@pytest.fixture
def of(subject):
    def make(path, **model):
        return subject(model={"path": str(path), **model}, engine={"kind": "echo"})

    return make


def test_the_tokenizer(found, of, folder):
    assert [level for level, _ in found(prompts.tokenizer, of(folder))] == ["ok"]
    definition = json.loads((folder / "tokenizer.json").read_text())
    for token in definition["added_tokens"]:
        token["content"] = token["content"].replace("<img>", "<picture>")
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    [(level, text)] = found(prompts.tokenizer, of(folder))
    assert level == "error"
    assert "no token <img>" in text


def test_a_template_that_writes_the_same(found, of, folder):
    (folder / "chat_template.jinja").write_text(CHATML)
    [(level, text)] = found(prompts.template, of(folder))
    assert level == "ok"
    assert "writes the same" in text


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            CHATML.replace("assistant\n", "assistant: "),
            r"After \d+ characters the built-in one writes",
        ),
        (DEFAULT_SYSTEM_TEXT + CHATML, "After 0 characters"),
        ("{{ raise_exception('no') }}", "accepts no system text"),
    ],
)
def test_a_template_that_writes_something_else(found, of, folder, source, says):
    (folder / "chat_template.jinja").write_text(source)
    for model in ({}, {"template": "checkpoint"}):
        [(level, text)] = found(prompts.template, of(folder, **model))
        assert level == "warning"
        assert re.search(says, text)
        assert f"The template {model.get('template', 'internvl2_5')} is used" in text


def test_no_template(found, of, folder):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    [(level, text)] = found(prompts.template, of(folder))
    assert level == "ok"
    assert "no valid one" in text
    [(level, text)] = found(prompts.template, of(folder, template="checkpoint"))
    assert level == "error"
    assert "the checkpoint has no chat template" in text


def test_tiles_that_are_those_of_the_reference(found, of, folder, monkeypatch):
    assert [level for level, _ in found(prompts.tiles, of(folder))] == ["ok"]
    monkeypatch.setattr(startup_check, "_GOLDEN_RESIZE", "0" * 64)
    [(level, text)] = found(prompts.tiles, of(folder))
    assert level == "error"
    assert "resized images differ" in text


def test_the_fast_resizer(found, subject, monkeypatch):
    exact, fast = ({"media": {"resize": name}} for name in ("exact", "fast"))
    assert found(prompts.resizer, subject(**exact)) == []
    assert found(prompts.resizer, subject(engine={"kind": "cpu"})) == []
    assert [level for level, _ in found(prompts.resizer, subject(**fast))] == ["ok"]
    monkeypatch.setattr(prompts, "find_problem", lambda: "cykooz-resizer is not installed")
    assert [level for level, _ in found(prompts.resizer, subject(**fast))] == ["error"]
    on_gpu = subject(engine={"kind": "turbomind"})
    [(level, text)] = found(prompts.resizer, on_gpu)
    assert level == "warning"
    assert "internvl-server[fast]" in text
