"""What is measured side by side: our server, and LMDeploy's own with the same engine settings."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.load.rounds import Round, closed_loop
from scripts.load.servers import ServerProcess, python
from scripts.load.streams import Timing, send

__all__ = ["Http", "flat", "lmdeploy", "ours"]


class Http:
    """A server that is asked over HTTP. A context: it is stopped on leaving."""

    def __init__(self, name: str, process: ServerProcess) -> None:
        self.name, self.process = name, process
        self.ready_s = 0.0

    async def start(self) -> float:
        """Seconds until it can serve."""
        self.ready_s = await self.process.wait_ready()
        return self.ready_s

    async def send(self, body: bytes) -> Timing:
        return await send(self.process.address, body)

    async def measure(self, bodies: list[bytes], clients: int) -> Round:
        """Raises ServerError if it has ended."""
        self.process.check()
        return await closed_loop(self.send, bodies, clients, pid=self.process.pid)

    async def stop(self) -> None:
        self.process.__exit__(None, None, None)


def ours(
    values: dict[str, Any], work: Path, *, stand_in: Sequence[str] | None, name: str = "ours"
) -> Http:
    """Our server with nested settings."""
    changes = [word for change in flat(values) for word in ("--set", change)]
    command = python("internvl_server", "serve", "--port", "{port}", *changes, stand_in=stand_in)
    return Http(name, ServerProcess(command, work / f"{name}.log"))


def lmdeploy(
    values: dict[str, Any], work: Path, *, stand_in: Sequence[str] | None, name: str = "lmdeploy"
) -> Http:
    """LMDeploy's api_server with the engine settings that ours would have."""
    path = work / f"{name}.json"
    path.write_text(json.dumps(values))
    command = python("scripts.load.lmdeploy_server", str(path), "{port}", stand_in=stand_in)
    return Http(name, ServerProcess(command, work / f"{name}.log", ready_path="/v1/models"))


def flat(values: dict[str, Any], prefix: str = "") -> list[str]:
    """Nested settings as `section.name=value`."""
    found = []
    for name, value in values.items():
        if isinstance(value, dict) and value:
            found += flat(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            found.append(f"{prefix}{name}={text}")
    return found
