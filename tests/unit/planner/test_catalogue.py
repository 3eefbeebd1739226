"""`internvl-server models`: what is listed, and what fits a machine."""

import json
import re
from typing import Any

import pytest
from internvl_server.cli import main
from internvl_server.planner.catalogue import Machine, catalogue, short_name
from internvl_server.planner.check import fitting_plan
from internvl_server.planner.gpus import GIB, GpuMemory, GpuSet
from internvl_server.planner.memory import Deployment
from internvl_server.planner.models import MODELS, awq, find_model, find_repository
from internvl_server.planner.sizes import cpu_bytes, file_bytes

from tests.nvidia_driver import Driver, install

GB = 10**9


def here(memory_bytes: int | None = None, *gpus_gb: int) -> dict[str, str]:
    """Where each model fits."""
    gpus = [GpuMemory(size * GB, size * GB) for size in gpus_gb]
    return {fact["name"]: fact["here"] for fact in catalogue(Machine(gpus, memory_bytes))}


def test_every_short_name_is_understood() -> None:
    assert all(find_model(short_name(model)) is model for model in MODELS.values())
    assert short_name(MODELS["InternVL3_5-30B-A3B"]) == "internvl3.5-30b-a3b"


def test_every_listed_name_means_its_first_repository() -> None:
    for fact in catalogue(Machine([], None)):
        assert f"OpenGVLab/{find_repository(fact['name'])}" == fact["repositories"][0]


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("2B", "InternVL3-2B-hf"),
        ("internvl3-2b-HF", "InternVL3-2B-hf"),
        ("8b-awq", "InternVL3-8B-AWQ"),
        ("3.5-8B", "InternVL3_5-8B-HF"),
        ("internvl2.5-8b", "InternVL2_5-8B-MPO-hf"),
        ("internvl3-9b-awq", None),  # not published
        ("internvl2.5-26b", None),
        ("internvl3-8b-instruct", None),  # a stage of training: by its repository only
        ("OpenGVLab/InternVL3-2B", None),
        ("internvl3-3b", None),
    ],
)
def test_which_repository_a_name_means(name: str, repository: str | None) -> None:
    assert find_repository(name) == repository


def test_only_what_can_be_served_is_listed() -> None:
    names = here()
    assert "internvl2.5-26b" not in names
    assert len(names) == len(MODELS) - 1


def test_files_have_the_published_sizes() -> None:
    model = MODELS["InternVL3-1B"]
    assert file_bytes(model) == 1_876_386_048
    # Of 128 weights of 4 bits with a scale and a zero point: 66.5 bytes instead of 256.
    matrices = 24 * 896 * (2 * (14 + 2) * 64 + 3 * 4864)
    saved = 2 * matrices - int(matrices * 66.5 / 128)
    assert file_bytes(model) - file_bytes(awq(model)) == saved


def test_the_smallest_gpus_are_the_smallest() -> None:
    model = MODELS["InternVL3-8B"]
    [fact] = [one for one in catalogue(Machine([], None)) if one["name"] == "internvl3-8b"]
    assert set(fact["min_gpu_gb"]["16-bit"]) == {1, 2, 4}
    for tp, size in fact["min_gpu_gb"]["16-bit"].items():
        deployment = Deployment(tp=tp, max_num_seqs=16)
        assert fitting_plan(model, deployment, GpuSet("", tp, size * GB))
        assert not fitting_plan(model, deployment, GpuSet("", tp, (size - 1) * GB))


def test_what_fits_the_memory_of_a_machine() -> None:
    large, small, unknown = here(200 * GIB), here(8 * GIB), here(None)
    assert large["internvl3-38b"] == "CPU, float32"
    assert large["internvl3-9b"] == large["internvl3.5-30b-a3b"] == "no"
    assert small["internvl3-1b"] == "CPU, float32"
    assert small["internvl3-2b"] == "CPU, bfloat16"
    assert small["internvl3-8b"] == "no"
    assert set(unknown.values()) == {"no"}


def test_int8_is_the_last_resort() -> None:
    model = MODELS["InternVL3-14B"]
    sizes = [cpu_bytes(model, dtype) for dtype in ("float32", "bfloat16", "int8")]
    assert sizes == sorted(sizes, reverse=True)
    assert here(sizes[2])["internvl3-14b"] == "CPU, int8"
    assert here(sizes[2] - 1)["internvl3-14b"] == "no"


def test_what_fits_the_gpus_of_a_machine() -> None:
    one, two = here(200 * GIB, 24), here(None, 80, 80)
    assert one["internvl3-2b"].startswith("tp 1, ")
    assert one["internvl3-14b"].startswith("4-bit, tp 1, ")
    assert one["internvl3-38b"] == "no"
    assert two["internvl3-38b"].startswith("tp 2, ")


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["models", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_the_gpus_are_read_from_the_driver(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, Driver(2, sizes=(24 * GB, 23 * GB)), "0.18.0")
    found = listed(capsys)
    assert found["machine"]["gpus"] == [{"total_bytes": 24 * GB, "free_bytes": 23 * GB}] * 2
    assert any("tp 2" in model["here"] for model in found["models"])


def test_the_table_names_both_layouts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, None, None)
    assert listed(capsys)["machine"]["gpus"] == []
    assert main(["models"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("This machine: no NVIDIA GPU")
    [line] = [line for line in output.splitlines() if line.startswith("internvl3-2b ")]
    assert re.search("  MIT, Qwen +InternVL3-2B-hf, InternVL3-2B$", line)
