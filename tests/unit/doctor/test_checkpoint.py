"""Checkpoints of both layouts that are whole, and damaged ones."""

import json
from pathlib import Path

import pytest
from internvl_server.doctor import checkpoint

from scripts.make_random_checkpoint import SHAPES, write_checkpoint


@pytest.fixture(params=["hf", "authors"])
def folder(request, tmp_path):
    path = tmp_path / "my-model"
    write_checkpoint(path, SHAPES["tiny"], layout=request.param, dtype="float16")
    return path


@pytest.fixture
def of(subject):
    """Subjects with a model."""

    def make(path: Path | str, kind: str = "cpu", **model: object):
        return subject(model={"path": str(path), **model}, engine={"kind": kind})

    return make


def damage(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_whole_checkpoint(found, of, folder):
    lines = [line for check in checkpoint.CHECKS for line in found(check, of(folder))]
    assert [level for level, _ in lines] == ["ok"] * 4
    assert "layout, qwen2, 16-bit weights, a context of 2,048 tokens" in lines[1][1]


def test_a_folder_that_is_not_there(found, of, tmp_path):
    [(level, text)] = found(checkpoint.model, of(tmp_path / "none"))
    assert level == "error"
    assert "there is no folder" in text
    assert found(checkpoint.weights, of(tmp_path / "none")) == []


def test_a_version_that_cannot_be_served(found, of):
    [(level, text)] = found(checkpoint.model, of("OpenGVLab/InternVL3_5-8B-Flash"))
    assert level == "error"
    assert "Serve OpenGVLab/InternVL3_5-8B-HF" in text


@pytest.mark.parametrize(
    ("name", "says"), [("OpenGVLab/InternVL3-8B-hf", "about 14.8 GiB are"), ("a/b", "it is")]
)
def test_a_model_that_was_not_downloaded(found, of, tmp_path, name, says):
    away = of(name, download_dir=str(tmp_path))
    [(level, text)] = found(checkpoint.model, away)
    assert level == "warning"
    assert f"not on this machine: {says} downloaded" in text
    assert [found(check, away) for check in checkpoint.CHECKS[1:]] == [[], [], []]


def test_a_model_that_was_downloaded(found, of, tmp_path, folder):
    repository = tmp_path / "hub" / "models--a--b"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("c" * 40)
    (repository / "snapshots").mkdir()
    folder.rename(repository / "snapshots" / ("c" * 40))
    here = of("a/b", download_dir=str(tmp_path / "hub"))
    lines = [line for check in checkpoint.CHECKS for line in found(check, here)]
    assert [level for level, _ in lines] == ["ok"] * 4


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("config.json", None, "has no config.json"),
        ("config.json", "version https://git-lfs.github.com/spec/v1", "not readable JSON"),
        ("config.json", '{"architectures": ["Qwen2ForCausalLM"]}', "names the architecture"),
        ("tokenizer_config.json", "{", "not readable JSON"),
        ("tokenizer.json", "{}", "no token <IMG_CONTEXT>"),
    ],
)
def test_a_damaged_small_file(found, of, folder, name, text, says):
    path = folder / name
    if name == "tokenizer.json":
        damage(folder / "config.json", image_token_id=None)
    path.unlink() if text is None else path.write_text(text)
    [(level, shown)] = found(checkpoint.configuration, of(folder))
    assert level == "error"
    assert says in shown
    assert found(checkpoint.support, of(folder)) == []


def test_weights_that_are_cut_off(found, of, folder):
    [path, *_] = sorted(folder.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-5])
    [(level, text)] = found(checkpoint.weights, of(folder))
    assert level == "error"
    assert f"{path.name} has " in text


def test_an_architecture_that_the_engine_lacks(found, of, folder, tmp_path):
    section = (
        "llm_config" if "llm_config" in (folder / "config.json").read_text() else "text_config"
    )
    text = json.loads((folder / "config.json").read_text())[section]
    damage(folder / "config.json", **{section: text | {"hidden_act": "gelu"}})
    [(level, shown)] = found(checkpoint.support, of(folder))
    assert level == "error"
    assert "hidden_act" in shown
    assert [level for level, _ in found(checkpoint.support, of(folder, "turbomind"))] == ["ok"]
    assert found(checkpoint.support, of(folder, "echo")) == []


def test_a_tokenizer_that_is_code(found, of, folder):
    damage(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["x.py", None]})
    [(level, text)] = found(checkpoint.support, of(folder, "turbomind"))
    assert level == "error"
    assert "Python code" in text


def test_quantized_weights_that_are_not_computed(found, of, folder):
    damage(folder / "config.json", quantization_config={"quant_method": "awq", "bits": 3})
    [(level, text)] = found(checkpoint.support, of(folder, "turbomind"))
    assert level == "error"
    assert "3 bits" in text
