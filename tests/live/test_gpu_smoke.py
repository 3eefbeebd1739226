"""The GPU trial's own client, against the CPU engine with the demo model: what it checks is true here."""

import pytest
from internvl_server.planner.check import check_settings
from internvl_server.planner.gpus import GpuMemory, GpuSet
from internvl_server.planner.memory import valid_tps
from internvl_server.planner.models import MODELS
from internvl_server.settings import Settings
from internvl_server.settings.loading import load_settings

from scripts.gpu_smoke.__main__ import changes_for, compared, largest_tp
from scripts.gpu_smoke.features import CHECKS, try_features
from tests.live_server import LiveServer


@pytest.fixture(scope="module")
def server():
    with LiveServer(Settings(media={"num_workers": 1})) as server:
        server.wait_ready()
        yield server


async def test_features(server):
    async with server.async_client() as client:
        model = (await client.models.list()).data[0].id
        rows = await try_features(client, model, has_prefix_cache=False)
    assert [name for name, _, _ in rows] == list(CHECKS)
    assert not [row for row in rows if not row[2]]


async def test_a_failure_is_a_row_and_not_the_end(server):
    """This engine keeps no prefix."""
    async with server.async_client() as client:
        model = (await client.models.list()).data[0].id
        rows = await try_features(client, model)
    assert rows[-1][0] == "prefix cache"
    assert not rows[-1][2]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("num_gpus", range(1, 9))
def test_a_model_is_split_over_gpus_as_turbomind_can(name, num_gpus):
    """Seven GPUs divide the heads of the 1B and the 8B, but not their key-value heads."""
    config = MODELS[name]
    tp = largest_tp(config, num_gpus)
    assert tp <= num_gpus
    assert tp in valid_tps(config)


def test_the_settings_fit_small_gpus_too():
    """The 8B with the default share of the cache would be refused on 24 GB."""
    gpus = [GpuMemory(24 * 10**9, 24 * 10**9)]
    values = dict(
        change.removeprefix("engine.").split("=")
        for change in changes_for(MODELS["InternVL3-8B"], 1, GpuSet.of(gpus))
    )
    turbomind = {
        key.removeprefix("turbomind."): value for key, value in values.items() if "turb" in key
    }
    engine = {"max_num_seqs": values["max_num_seqs"], "turbomind": turbomind}
    settings = load_settings(None, {"model": {"path": "x/InternVL3-8B"}, "engine": engine})
    assert check_settings(settings, gpus) is not None


def test_texts_that_part_late_are_equal_enough():
    """A second run takes what the prefix cache has, and so rounds other sums."""
    first, second = {"a": "The circle is red."}, {"a": "The circle was red."}
    (row,) = compared(1, "greedy twice", first, second)
    assert (row.is_good, row.result) == (True, "first 11 of 19 characters")
    (row,) = compared(1, "greedy twice", {"a": "Yes"}, {"a": "No"})
    assert not row.is_good
