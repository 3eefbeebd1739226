"""Weight files that are whole, and those that are not."""

import json
from pathlib import Path

import numpy as np
import pytest
from internvl_server.checkpoint.weights import INDEX_NAME, inspect_weights
from safetensors.numpy import save_file

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards with two tensors each, and their index."""
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(SHARDS):
        tensors = {f"{name}.{number}": np.zeros((4, 8), dtype=np.float32) for name in "ab"}
        save_file(tensors, tmp_path / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, shard)
    (tmp_path / INDEX_NAME).write_text(json.dumps({"weight_map": weight_map}))
    return tmp_path


def problem(folder: Path) -> str:
    [found] = inspect_weights(folder).problems
    return found


def test_whole_shards(folder: Path) -> None:
    files = inspect_weights(folder)
    assert files.problems == ()
    assert files.num_files == 2
    assert files.num_bytes == sum((folder / shard).stat().st_size for shard in SHARDS)


def test_a_single_file_needs_no_index(folder: Path) -> None:
    (folder / INDEX_NAME).unlink()
    assert problem(folder) == "model.safetensors is missing"
    (folder / SHARDS[0]).rename(folder / "model.safetensors")
    assert inspect_weights(folder).problems == ()


@pytest.mark.parametrize("lost", [1, 100])
def test_a_shard_that_is_cut_off(folder: Path, lost: int) -> None:
    data = (folder / SHARDS[1]).read_bytes()
    (folder / SHARDS[1]).write_bytes(data[:-lost])
    assert problem(folder) == (f"{SHARDS[1]} has {len(data) - lost} bytes instead of {len(data)}")


def test_a_shard_that_has_grown(folder: Path) -> None:
    with (folder / SHARDS[0]).open("ab") as file:
        file.write(b"\0" * 8)
    assert "instead of" in problem(folder)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "unreadable header"),
        (b"\x10\0\0", "is not a safetensors file"),
        (b"\xff" * 64, "is not a safetensors file"),
        (b"\x04\0\0\0\0\0\0\0nope", "unreadable header"),
        (b'\x0a\0\0\0\0\0\0\0{"a": [1]}', "unreadable header"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
    ],
)
def test_what_is_no_shard(folder: Path, data: bytes, says: str) -> None:
    (folder / SHARDS[0]).write_bytes(data)
    assert says in problem(folder)


def test_a_missing_shard(folder: Path) -> None:
    (folder / SHARDS[0]).unlink()
    assert problem(folder) == f"{SHARDS[0]} is missing"
    assert inspect_weights(folder).num_files == 1


def test_a_tensor_that_only_the_index_has(folder: Path) -> None:
    index = json.loads((folder / INDEX_NAME).read_text())
    index["weight_map"] |= {"c": SHARDS[0], "d": SHARDS[0]}
    (folder / INDEX_NAME).write_text(json.dumps(index))
    assert problem(folder) == f"{SHARDS[0]} lacks 2 tensors that the index names, such as c"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 1}}'])
def test_what_is_no_index(folder: Path, text: str) -> None:
    (folder / INDEX_NAME).write_text(text)
    assert problem(folder) == f"{INDEX_NAME} is not an index of weights"
