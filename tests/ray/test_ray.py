"""The server on Ray Serve, with two replicas here: streams, failures, scaling, updates, affinity."""

import asyncio
import os
import re
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from tests.conversations import picture_bodies
from tests.ray.conftest import Cluster

ROOT = Path(__file__).parents[2]
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello there"}], "stream": True}
LONG = CHAT | {"min_tokens": 1500, "max_tokens": 1500}


@dataclass
class Load:
    """Clients that send one streamed request after the other, and what became of each."""

    url: str
    num_clients: int = 8
    num_tokens: int = 30
    outcomes: list[tuple[str, str]] = field(default_factory=list)  # with the replica
    in_flight: Counter[str] = field(default_factory=Counter)  # by replica
    num_sent: int = 0

    async def __aenter__(self) -> "Load":
        self._is_over = False
        self._client = httpx2.AsyncClient(timeout=60, limits=httpx2.Limits(max_connections=None))
        self._tasks = [asyncio.create_task(self._run(index)) for index in range(self.num_clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True
        await asyncio.gather(*self._tasks)
        await self._client.aclose()

    async def _run(self, index: int) -> None:
        while not self._is_over:
            self.num_sent += 1
            self.outcomes.append(await self._request(f"client {index}"))

    async def _request(self, session: str) -> tuple[str, str]:
        body = {**CHAT, "min_tokens": self.num_tokens, "max_tokens": self.num_tokens}
        headers = {"x-session-id": session}
        replica = ""
        try:
            async with self._client.stream(
                "POST", f"{self.url}/v1/chat/completions", json=body, headers=headers
            ) as answer:
                replica = answer.headers.get("x-replica-id", "")
                if answer.status_code != 200:
                    return f"refused {answer.status_code}", replica
                self.in_flight[replica] += 1
                text = "".join([part async for part in answer.aiter_text()])
        except httpx2.HTTPError as error:
            return f"cut {type(error).__name__}", replica
        finally:
            self.in_flight[replica] -= 1
        if text.endswith("data: [DONE]\n\n"):
            return "completed", replica
        return ("failed" if '"error"' in text else "cut"), replica

    async def more(self, number: int) -> None:
        """Wait until so many more requests have ended."""
        number += len(self.outcomes)
        while len(self.outcomes) < number:
            await asyncio.sleep(0.05)

    def bad(self) -> list[tuple[str, str]]:
        return [outcome for outcome in self.outcomes if outcome[0] != "completed"]

    def busy(self) -> Counter[str]:
        """The replicas that answer now, and how many requests."""
        return +self.in_flight


def replica_pids(application: str) -> set[int]:
    """Processes of replicas; Ray names them."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                title = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::ServeReplica:%b:" % application.encode()):
                found.add(int(entry.name))
    return found


def metric(text: str, name: str) -> float:
    return sum(float(x) for x in re.findall(rf"^internvl_{name}(?:{{.*}})? (\S+)$", text, re.M))


async def test_tokens_arrive_as_they_are_made_until_the_client_leaves(cluster: Cluster) -> None:
    cluster.deploy(1, token_delay_s=0.05)
    async with httpx2.AsyncClient(timeout=60) as client:

        async def num_running() -> float:
            return metric((await client.get(f"{cluster.url}/metrics")).text, "num_requests_running")

        url, headers = f"{cluster.url}/v1/chat/completions", {"x-request-id": "my-id"}
        async with client.stream("POST", url, json=LONG, headers=headers) as answer:
            pieces = answer.aiter_raw()
            for _ in range(5):
                assert await anext(pieces)
            assert answer.headers.get_list("x-request-id") == ["my-id"]
            assert await num_running() == 1, "they were not gathered on the way"
        deadline = time.monotonic() + 30
        while await num_running():
            assert time.monotonic() < deadline, "its place is free before it would have ended"
            await asyncio.sleep(0.05)


async def test_a_killed_replica_takes_only_its_streams_with_it(cluster: Cluster) -> None:
    cluster.deploy(2, affinity=True, deployment={"health_check_period_s": 1}, token_delay_s=0.02)
    pids = replica_pids(cluster.name)
    async with Load(cluster.url, num_clients=12, num_tokens=100) as load:
        await load.more(24)
        assert load.bad() == []
        while len(load.busy()) < 2:
            await asyncio.sleep(0.05)
        before, in_flight = len(load.outcomes), load.busy()
        num_on_their_way = load.num_clients - in_flight.total()
        os.kill(min(pids), signal.SIGKILL)
        await asyncio.to_thread(
            cluster.wait,
            lambda: not replica_pids(cluster.name) <= pids,
            "another replica is started",
        )
        await asyncio.to_thread(cluster.wait, lambda: cluster.num_replicas() == 2, "and runs")
        await load.more(24)
    assert len(load.outcomes) == load.num_sent
    lost = {replica for _, replica in load.bad()}
    assert len(lost - {""}) <= 1, load.bad()
    [killed] = lost - {""}
    assert len(load.bad()) <= in_flight[killed] + num_on_their_way + 2, load.bad()
    after = [replica for outcome, replica in load.outcomes[before:] if outcome == "completed"]
    assert after.count(killed) <= in_flight[killed]
    assert len(after) > 20


async def test_replicas_follow_the_load(cluster: Cluster) -> None:
    scaling = {
        "min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 3, "upscale_delay_s": 0.5,
        "downscale_delay_s": 1, "metrics_interval_s": 0.5, "look_back_period_s": 1,
    }  # fmt: skip
    cluster.deploy([1, 2], deployment={"autoscaling_config": scaling}, token_delay_s=0.03)
    await asyncio.to_thread(
        cluster.wait, lambda: cluster.num_replicas() == 1, "one replica runs while it is idle"
    )
    async with Load(cluster.url, num_clients=8) as load:
        await asyncio.to_thread(
            cluster.wait, lambda: cluster.num_replicas() == 2, "a second one under load"
        )
        await load.more(8)
    await asyncio.to_thread(
        cluster.wait, lambda: cluster.num_replicas() == 1, "one again without load"
    )
    assert load.bad() == []
    assert len(load.outcomes) == load.num_sent > 8


async def test_an_update_under_load_loses_nothing(cluster: Cluster) -> None:
    cluster.deploy(2, token_delay_s=0.02)
    async with Load(cluster.url) as load:
        await load.more(8)
        old = {replica for _, replica in load.outcomes}
        await asyncio.to_thread(cluster.deploy, 2, token_delay_s=0.021)
        await load.more(32)
    assert load.bad() == []
    assert len(load.outcomes) == load.num_sent
    new = {replica for _, replica in load.outcomes[-8:]}
    assert old.isdisjoint(new), "all replicas were replaced"


async def cache_hits(cluster: Cluster, bodies: list[dict[str, Any]]) -> float:
    """The share of images whose tiles were known, of all replicas."""
    async with httpx2.AsyncClient(timeout=60) as client:
        replicas: Counter[str] = Counter()
        known: set[str] = set()
        while len(known) < 2:  # the proxy learns of replicas one by one
            headers = {"x-session-id": str(time.monotonic())}
            answer = await client.get(f"{cluster.url}/version", headers=headers)
            known.add(answer.headers["x-replica-id"])
        for body in bodies:
            answer = await client.post(f"{cluster.url}/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            replicas[answer.headers["x-replica-id"]] += 1
        assert len(replicas) == 2, "both take part"
        texts: dict[str, str] = {}
        while len(texts) < 2:
            answer = await client.get(f"{cluster.url}/metrics")
            texts[answer.headers["x-replica-id"]] = answer.text
    queries = sum(metric(text, "media_cache_queries_total") for text in texts.values())
    assert queries == len(bodies)
    return sum(metric(text, "media_cache_hits_total") for text in texts.values()) / queries


async def test_affinity_raises_the_hit_rate(cluster: Cluster, picture_url: Any) -> None:
    bodies = picture_bodies(picture_url, "tiny")
    cluster.deploy(2, affinity=False, token_delay_s=0.001)
    without = await cache_hits(cluster, bodies)
    cluster.deploy(2, affinity=True, token_delay_s=0.002)
    with_affinity = await cache_hits(cluster, bodies)
    assert with_affinity == pytest.approx(2 / 3), "all turns but the first of each conversation"
    assert without < with_affinity


def test_the_shipped_config_is_valid(cluster: Cluster) -> None:
    text = (ROOT / "configs/ray-serve.yaml").read_text(encoding="utf-8")
    schema = ServeDeploySchema.model_validate(yaml.safe_load(text))
    [application] = schema.applications
    assert application.import_path == "internvl_server.ray_app:build"
    assert application.deployments[0].name == "internvl-server"
