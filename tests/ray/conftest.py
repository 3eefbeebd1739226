"""A local Ray with Serve, on which tests deploy the server with the echo engine."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.load.servers import free_port

os.environ["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] = (
    "internvl_server.ray_app:affinity_middlewares"
)
os.environ["RAY_AUTH_MODE"] = "disabled"

import ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

NAME = "internvl-server"


class Cluster:
    """A running Serve."""

    def __init__(self, port: int, checkpoint: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._checkpoint = checkpoint
        self.name = "plain"

    def deploy(
        self,
        replicas: int | list[int],
        *,
        affinity: bool = False,
        deployment: dict[str, Any] | None = None,
        **echo: Any,
    ) -> None:
        """Deploy, or update, the application as a Serve config file would; returns once it runs."""
        # Proxies keep the router of a deployment, even of one that is deleted and made again.
        name = "affine" if affinity else "plain"
        if name != self.name:
            serve.delete(self.name)
            self.name = name
        settings = {
            "model": {"path": str(self._checkpoint)},
            "engine": {"kind": "echo", "max_num_seqs": 8, "echo": echo},
        }
        application = {
            "name": name,
            "route_prefix": "/",
            "import_path": "internvl_server.ray_app:build",
            "args": {"settings": settings, "affinity": affinity, "replicas": replicas},
            "deployments": [
                {"name": NAME, "ray_actor_options": {"num_cpus": 0.5}, **(deployment or {})}
            ],
        }
        schema = ServeDeploySchema.model_validate({"applications": [application]})
        before = self._deployed_at()
        time.sleep(1.0)  # Serve keeps the time in whole seconds
        _get_global_client().deploy_apps(schema)
        self.wait(lambda: self._deployed_at() > before, "the deployment is noticed")
        self.wait(lambda: self.status() == "RUNNING", "the application runs")

    def _deployed_at(self) -> float:
        found = serve.status().applications.get(self.name)
        return found.last_deployed_time_s if found else 0.0

    def status(self) -> str:
        found = serve.status().applications.get(self.name)
        return found.status.value if found else ""

    def num_replicas(self) -> int:
        """Replicas that run."""
        deployment = serve.status().applications[self.name].deployments[NAME]
        return dict(deployment.replica_states).get("RUNNING", 0)

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = 120) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"in time: {what}; {serve.status()}"
            time.sleep(0.1)


@pytest.fixture(scope="session")
def cluster(tiny_checkpoint: Path) -> Iterator[Cluster]:
    port = free_port()
    ray.init(
        num_cpus=4, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield Cluster(port, tiny_checkpoint)
    finally:
        serve.shutdown()
        ray.shutdown()
