"""The GPU trial's own client, against the CPU engine with the demo model: what it checks is true here."""

import pytest
from internvl_server.settings import Settings

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
