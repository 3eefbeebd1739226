"""`server plan` and the check at start-up, as they are called."""

import json
from pathlib import Path
from typing import Any

import pytest
from internvl_server.app import create_app
from internvl_server.checkpoint.files import read_config
from internvl_server.cli import main
from internvl_server.errors import StartupError
from internvl_server.planner.check import check_settings, model_at
from internvl_server.planner.gpus import GpuMemory
from internvl_server.planner.memory import Deployment, make_plan
from internvl_server.planner.models import MODELS
from internvl_server.planner.support import check_served
from internvl_server.settings import DEMO_MODEL
from internvl_server.settings.loading import load_settings

GB = 10**9


def run(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["plan", *options]) == 0
    return capsys.readouterr().out


def facts(capsys: pytest.CaptureFixture[str], *options: str) -> list[dict[str, Any]]:
    found = json.loads(run(capsys, "--json", *options))
    assert isinstance(found, list)
    return found


def test_all_models_on_all_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    found = facts(capsys)
    assert len(found) == len(MODELS) * 4
    assert {one["model"] for one in found} == set(MODELS)
    for one in found:
        assert one["fits"] == (not one["problem"]) == (not one["changes"])


def test_json_says_what_the_plan_says(capsys: pytest.CaptureFixture[str]) -> None:
    [one] = facts(
        capsys, "--model", "78B", "--gpus", "8x80", "--tp", "8", "--kv", "int8",
        "--context", "16384", "--cache", "0.7", "--max-num-seqs", "32",
    )  # fmt: skip
    plan = make_plan(MODELS["InternVL3-78B"], Deployment(8, 16_384, 32, 8, 0.7), 80 * GB)
    assert one["tp"] == 8
    assert one["weight_bytes"] == plan.weight_bytes
    assert one["kv_bytes_per_token"] == plan.kv_bytes_per_token
    assert one["num_tokens"] == plan.num_tokens
    assert one["num_requests"] == 32
    assert one["estimated_working_bytes"] == plan.working_bytes


def test_the_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "--model", "1B", "--gpus", "1x24,4x24", "--tp", "4")
    assert "tp may be 1, 2" in text
    assert "14 heads do not divide by 4" in text
    assert "Change one of: engine.turbomind.tp = 1." in text
    fits = run(capsys, "--model", "8B-AWQ", "--gpus", "1x24")
    assert fits.splitlines()[1].split()[-1] == "yes"
    assert "938,193,024 parameters" in text


def test_a_folder_is_planned_for(capsys: pytest.CaptureFixture[str]) -> None:
    [one] = facts(capsys, "--model", str(DEMO_MODEL), "--gpus", "1x24")
    assert one["fits"]
    assert one["num_parameters"] < 10**7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "InternVL3-3B"], "neither a folder nor one of InternVL2_5-1B"),
        (["--model", "InternVL3_5-8B-Flash"], "how many tokens"),
        (
            ["--model", "3.5-8B-AWQ"],
            "-AWQ, except of InternVL2_5-1B, InternVL2_5-2B and InternVL3_5",
        ),
        (["--gpus", "many"], "COUNTxGB"),
        (["--model", "8B", "--context", "99999"], "32,768"),
    ],
)
def test_what_is_not_understood(
    capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["plan", *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--cache", "1"], ["--tp", "0"], ["--kv", "int2"]])
def test_wrong_values_are_a_wrong_command_line(
    capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["plan", *options])
    assert stop.value.code == 2
    capsys.readouterr()


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"config\.json"):
        model_at(str(tmp_path))


def settings(**turbomind: Any):
    return load_settings(
        None,
        {
            "model": {"path": "OpenGVLab/InternVL3-14B-hf"},
            "engine": {"kind": "turbomind", "turbomind": turbomind},
        },
    )


def gpus(*sizes_gb: int) -> list[GpuMemory]:
    return [GpuMemory(size * GB, size * GB) for size in sizes_gb]


def test_settings_are_checked_before_a_download() -> None:
    assert check_settings(settings(tp=1), gpus(80)) is not None
    with pytest.raises(StartupError, match="InternVL3-14B does not fit"):
        check_settings(settings(tp=1), gpus(24))
    plan = check_settings(settings(tp=2, quant_policy=8, cache_max_entry_count=0.5), gpus(80, 80))
    assert plan is not None
    assert (plan.deployment.kv_bits, plan.deployment.cache_share) == (8, 0.5)
    assert plan.deployment.context == 32_768


def test_an_unknown_repository_is_checked_when_its_config_is_known() -> None:
    unknown = load_settings(None, {"model": {"path": "someone/internvl-finetune"}})
    assert check_settings(unknown, gpus(24)) is None
    config = read_config(DEMO_MODEL, "internvl-finetune")
    assert check_settings(unknown, gpus(24), config) is not None


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "OpenGVLab/InternVL3_5-8B-Flash",
            r"how many tokens .* Serve OpenGVLab/InternVL3_5-8B-HF\.",
        ),
        ("OpenGVLab/InternVL2_5-8B", r"Python code .* Serve OpenGVLab/InternVL2_5-8B-MPO-hf"),
    ],
)
def test_a_version_that_cannot_be_served_is_refused_by_name(path: str, message: str) -> None:
    with pytest.raises(StartupError, match=message):
        check_served(path)
    with pytest.raises(StartupError, match=message):
        create_app(load_settings(None, {"model": {"path": path}, "engine": {"kind": "echo"}}))


@pytest.mark.parametrize("name", ["internvl3-2b", "InternVL3-2B", "2B"])
def test_a_short_name_is_answered_with_the_repository(name: str) -> None:
    with pytest.raises(StartupError, match=r"no folder .* write OpenGVLab/InternVL3-2B-hf\."):
        check_served(name)


def test_the_name_of_a_folder_does_not_matter(tmp_path: Path) -> None:
    """Its owner may have given it the tokenizer that its layout lacks."""
    (tmp_path / "InternVL2_5-8B").mkdir()
    check_served(str(tmp_path / "InternVL2_5-8B"))


def test_a_text_model_that_turbomind_or_the_prompts_lack_is_refused() -> None:
    config = read_config(DEMO_MODEL, "mine")
    text = config.text.model_copy(update={"family": "gpt_oss"})
    other = config.model_copy(update={"text": text})
    with pytest.raises(StartupError, match=r"The text model of mine is 'gpt_oss'; .* qwen3_moe"):
        check_settings(load_settings(None, {}), gpus(80), other)
