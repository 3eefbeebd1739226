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


@dataclass
class Load:
    """Clients that send one streamed request after the other, and what became of each."""

    url: str
    num_clients: int = 8
    max_tokens: int = 30
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
        body = {**CHAT, "max_tokens": self.max_tokens}
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

    def bad(self) -> list[tuple[str, str]]:
        return [outcome for outcome in self.outcomes if outcome[0] != "completed"]


def replica_pids() -> list[int]:
    """Processes of replicas; Ray names them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                title = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::ServeReplica:"):
                found.append(int(entry.name))
    return found


def metric(text: str, name: str) -> float:
    return sum(float(x) for x in re.findall(rf"^internvl_{name}(?:{{.*}})? (\S+)$", text, re.M))


def test_tokens_arrive_one_by_one_and_the_id_is_the_callers(cluster: Cluster) -> None:
    cluster.deploy(2, token_delay_s=0.05)
    body = {**CHAT, "max_tokens": 10}
    headers = {"x-request-id": "my-id"}
    with httpx2.stream(
        "POST", f"{cluster.url}/v1/chat/completions", json=body, headers=headers, timeout=30
    ) as answer:
        pieces = [time.monotonic() for _ in answer.iter_raw()]
    assert answer.headers.get_list("x-request-id") == ["my-id"]
    assert len(pieces) >= 5
    assert pieces[-1] - pieces[0] > 0.3, "they were not gathered on the way"


async def test_a_client_that_leaves_ends_its_request(cluster: Cluster) -> None:
    cluster.deploy(1, token_delay_s=0.1)
    async with httpx2.AsyncClient(timeout=30) as client:

        async def num_running() -> float:
            return metric((await client.get(f"{cluster.url}/metrics")).text, "num_requests_running")

        async with client.stream("POST", f"{cluster.url}/v1/chat/completions", json=CHAT) as answer:
            pieces = answer.aiter_raw()
            await anext(pieces)
            assert await num_running() == 1
        deadline = time.monotonic() + 5
        while await num_running():
            assert time.monotonic() < deadline, "its place is free before it would have ended"
            await asyncio.sleep(0.05)


async def test_a_killed_replica_takes_only_its_streams_with_it(cluster: Cluster) -> None:
    cluster.deploy(2, affinity=True, deployment={"health_check_period_s": 1}, token_delay_s=0.02)
    async with Load(cluster.url, num_clients=12) as load:
        await asyncio.sleep(3)
        assert load.bad() == []
        before = len(load.outcomes)
        in_flight = Counter({key: number for key, number in load.in_flight.items() if number > 0})
        assert len(in_flight) == 2, "both replicas are in use"
        os.kill(replica_pids()[0], signal.SIGKILL)
        await asyncio.sleep(8)
    assert len(load.outcomes) == load.num_sent
    lost = {replica for _, replica in load.bad()}
    assert len(lost - {""}) <= 1, load.bad()
    [killed] = lost - {""}
    assert len(load.bad()) <= in_flight[killed] + 2, "those in flight, and any on their way"
    after = [replica for outcome, replica in load.outcomes[before:] if outcome == "completed"]
    assert after.count(killed) <= in_flight[killed]
    assert len(after) > 20
    cluster.wait(lambda: cluster.num_replicas() == 2, "another replica is started")


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
        await asyncio.sleep(1)
    await asyncio.to_thread(
        cluster.wait, lambda: cluster.num_replicas() == 1, "one again without load"
    )
    assert load.bad() == []
    assert len(load.outcomes) == load.num_sent > 8


async def test_an_update_under_load_loses_nothing(cluster: Cluster) -> None:
    cluster.deploy(2, token_delay_s=0.02)
    async with Load(cluster.url) as load:
        await asyncio.sleep(1)
        old = {replica for _, replica in load.outcomes}
        await asyncio.to_thread(cluster.deploy, 2, token_delay_s=0.021)
        await asyncio.sleep(2)
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
