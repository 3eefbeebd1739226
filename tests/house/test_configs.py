"""Every file in `configs/` loads, and every GPU one fits the GPUs it names."""

import re
from pathlib import Path

import pytest
from internvl_server.planner.check import check_settings
from internvl_server.planner.gpus import GIB, GpuMemory, parse_gpus
from internvl_server.planner.models import MODELS, find_model, repositories
from internvl_server.settings import Settings
from internvl_server.settings.loading import load_settings

# What an L4 or an A10G of 24 GB leaves: their memory corrects errors, which takes a sixteenth.
_USABLE_GIB = {"1x24": 22}
ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.toml"))
GPU_CONFIGS = [path for path in CONFIGS if path.stem.startswith("internvl")]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("INTERNVL_"):
            monkeypatch.delenv(name)


def test_there_is_a_file_for_each_model_of_internvl3_and_common_ones_of_its_family() -> None:
    stems = {path.stem for path in GPU_CONFIGS}
    assert stems <= {name.lower() for name in MODELS}
    assert {name.lower() for name in MODELS if name.startswith("InternVL3-")} <= stems
    assert {"internvl2_5-8b", "internvl3_5-8b", "internvl3_5-30b-a3b", "internvl3_5-38b"} <= stems


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_loads(path: Path) -> None:
    assert isinstance(load_settings(path, {}), Settings)


@pytest.mark.parametrize("path", GPU_CONFIGS, ids=lambda path: path.stem)
def test_it_fits_the_gpus_it_names(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = re.search(r"^# GPUs: (\d+x\d+)$", text, re.MULTILINE)
    assert named, path
    [gpus] = parse_gpus(named[1])
    settings = load_settings(path, {})
    assert settings.engine.kind == "turbomind"
    assert gpus.count == settings.engine.turbomind.tp, "a server uses all the GPUs it names"
    num_bytes = min(gpus.num_bytes, _USABLE_GIB.get(named[1], 999) * GIB)
    plan = check_settings(settings, [GpuMemory(num_bytes, num_bytes)] * gpus.count)
    assert plan is not None
    assert plan.model == find_model(path.stem)
    # Every place of the engine is worth having: a usual request has room in each.
    assert plan.num_tokens // settings.engine.max_num_seqs >= 4096


@pytest.mark.parametrize("path", GPU_CONFIGS, ids=lambda path: path.stem)
def test_every_place_of_the_engine_can_hold_a_request_with_an_image(path: Path) -> None:
    """An image of 12 tiles and a thumbnail, and a queue, so that the engine is never idle."""
    settings = load_settings(path, {})
    assert settings.limits.max_in_flight > settings.engine.max_num_seqs
    assert settings.limits.max_tiles_in_flight >= 13 * settings.engine.max_num_seqs


@pytest.mark.parametrize("path", GPU_CONFIGS, ids=lambda path: path.stem)
def test_it_names_every_repository_that_can_be_served_and_no_other(path: Path) -> None:
    [model] = [model for name, model in MODELS.items() if name.lower() == path.stem]
    named = re.findall(r"OpenGVLab/([-\w]+)", path.read_text(encoding="utf-8"))
    assert set(named) == set(repositories(model))
    assert load_settings(path, {}).model.path == f"OpenGVLab/{repositories(model)[0]}"
