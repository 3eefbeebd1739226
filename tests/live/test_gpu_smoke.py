"""The GPU trial: its checks against the CPU engine with the demo model, and how it keeps its results."""

import asyncio
import contextlib
import math
import time

import httpx2
import pytest
import torch
from internvl_server.planner.check import check_settings
from internvl_server.planner.gpus import GpuMemory
from internvl_server.planner.memory import valid_tps
from internvl_server.planner.models import MODELS
from internvl_server.settings import Settings
from internvl_server.settings.loading import load_settings

from scripts.gpu_smoke.checkpoints import KINDS, make, pack_awq, twin_of
from scripts.gpu_smoke.deployment import Machine, largest_tp
from scripts.gpu_smoke.results import NotRunError, Results, Row, State
from scripts.gpu_smoke.server.answers import num_equal
from scripts.gpu_smoke.server.running import Running
from scripts.gpu_smoke.trials import TRIALS
from tests.live_server import LiveServer

SERVER = next(trial for trial in TRIALS if trial.name == "server")
FEATURES = (
    "every kind of request", "greedy twice", "logprobs", "json_schema", "tool call", "min_tokens",
    "ignore_eos", "n = 2", "prefix cache", "longest prompt",
)  # fmt: skip


@pytest.fixture(scope="module")
def server():
    with LiveServer(Settings(media={"num_workers": 1, "shared_tiles": 64})) as server:
        server.wait_ready()
        yield server


@contextlib.asynccontextmanager
async def running(server):
    info = server.engine.info
    name = server.get("/v1/models").json()["data"][0]["id"]
    tile_px = server.app.state.services.checkpoint.tile_px
    async with httpx2.AsyncClient(base_url=server.url, timeout=240) as client:
        yield Running(None, client, tile_px, info.max_model_len, info.max_num_seqs, 1, model=name)


@pytest.mark.parametrize("name", FEATURES)
async def test_a_check_passes_where_it_should(server, name):
    async with running(server) as trial:
        assert await SERVER.checks[name](trial)


async def test_a_check_fails_where_it_should(server):
    async with running(server) as trial:
        trial.max_model_len -= 8
        with pytest.raises(AssertionError, match="one token more: 200 instead of 400"):
            await SERVER.checks["longest prompt"](trial)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("num_gpus", range(1, 9))
def test_a_model_is_split_over_gpus_as_turbomind_can(name, num_gpus):
    """Seven GPUs divide the heads of the 1B and the 8B, but not their key-value heads."""
    config = MODELS[name]
    tp = largest_tp(config, num_gpus)
    assert tp <= num_gpus
    assert tp in valid_tps(config)


def test_the_settings_fit_small_gpus_too(tmp_path):
    """The 8B with the default share of the cache would be refused on 24 GB."""
    gpus = [GpuMemory(24 * 10**9, 24 * 10**9)]
    config = MODELS["InternVL3-8B"]
    deployed = Machine(gpus).deploy(tmp_path, config, ())
    values = deployed.values | {"model": {"path": "x/InternVL3-8B"}}
    assert check_settings(load_settings(None, values), gpus) is not None


def test_settings_of_a_trial_go_before_those_of_the_user_and_of_the_file(tmp_path):
    machine = Machine(
        [GpuMemory(80 << 30, 80 << 30)],
        "internvl3-1b",
        ("engine.max_num_seqs=8", "engine.turbomind.quant_policy=4"),
    )
    own = ["engine.turbomind.quant_policy=8", "engine.turbomind.devices=[0]"]
    deployed = machine.deploy(tmp_path, MODELS["InternVL3-1B"], own)
    settings = load_settings(None, deployed.values)
    assert settings.engine.max_num_seqs == 8
    assert settings.engine.turbomind.quant_policy == 8
    assert settings.limits.max_tiles_in_flight == 3328  # of the file
    assert f"model.path={tmp_path}" in deployed.words
    assert "engine.turbomind.devices=[0]" in deployed.words


def test_texts_are_compared_from_the_beginning():
    assert num_equal("The circle is red.", "The circle was red.") == 11
    assert num_equal("Yes", "Yes, it is") == 3


async def passing():
    return "1 ms"


async def failing():
    raise ValueError("it broke")


async def impossible():
    raise NotRunError("no GPU")


async def endless():
    await asyncio.sleep(60)


async def test_every_end_of_a_check_is_a_row(tmp_path):
    results = Results(tmp_path / "rows", math.inf)
    checks = {"a": passing, "b": failing, "c": impossible}
    await results.run("t", checks)
    await results.make("t", "d", endless, 0.01)
    rows = results.table({"t": [*checks, "d", "e"]})
    assert [(row.state, row.figures) for row in rows] == [
        (State.PASSED, "1 ms"),
        (State.FAILED, "ValueError: it broke"),
        (State.NOT_RUN, "no GPU"),
        (State.FAILED, "no result in 0 s"),
        (State.NOT_RUN, "not asked for"),
    ]


async def test_what_a_crash_interrupted_has_failed_and_the_rest_is_still_missing(tmp_path):
    first = Results(tmp_path / "rows", math.inf)
    await first.run("t", {"a": passing})
    first.add(Row("t", "b", State.BEGUN))
    second = Results(tmp_path / "rows", math.inf)
    assert second.end_begun("t", State.FAILED, "ended with -6")
    assert not second.end_begun("t", State.FAILED, "ended with -6")
    assert second.missing("t", ["a", "b", "c"]) == ["c"]
    assert second.rows()["t", "b"].figures == "ended with -6"
    second.forget(["t"])
    assert second.missing("t", ["a", "b", "c"]) == ["a", "b", "c"]


async def test_nothing_begins_after_the_deadline(tmp_path):
    results = Results(tmp_path / "rows", time.monotonic() - 1)
    await results.run("t", {"a": failing})
    [row] = results.table({"t": ["a"]})
    assert (row.state, row.figures) == (State.NOT_RUN, "the time limit: run it again to go on")


def test_awq_is_packed_so_that_it_stands_for_the_twin():
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    parts, rounded = pack_awq(weight, 32)
    assert (rounded - weight).abs().max() < 0.25
    order = (0, 2, 4, 6, 1, 3, 5, 7)

    def unpack(packed):
        columns = torch.stack([packed >> 4 * place & 15 for place in range(8)], dim=-1)
        levels = torch.empty_like(columns)
        levels[..., list(order)] = columns
        return levels.flatten(1)

    levels, zeros = unpack(parts["qweight"]), unpack(parts["qzeros"])
    scales = parts["scales"].float().repeat_interleave(32, 0)
    found = (levels - zeros.repeat_interleave(32, 0)) * scales
    assert torch.equal(found.T, rounded)


@pytest.mark.parametrize("kind", KINDS)
def test_random_checkpoints_name_the_one_that_transformers_reads(tmp_path, kind):
    folder = make(tmp_path, "tiny", kind)
    twin = twin_of(folder)
    assert (twin / "config.json").exists()
    assert (twin != folder) == (kind in ("authors", "awq"))
    assert make(tmp_path, "tiny", kind) == folder
