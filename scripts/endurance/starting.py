"""Starts a watched server for a trial, in a folder with its log and its temporary files."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.load.accounts.exchange import exchange, request_bytes
from scripts.load.servers import ServerProcess, python
from scripts.load.systems import flat
from scripts.side_by_side.model import make_model

__all__ = ["Folder", "folder", "metrics_of", "served_name", "watched_server"]


@dataclass(frozen=True)
class Folder:
    """Of one trial."""

    path: Path

    @property
    def log(self) -> Path:
        """Of the server."""
        return self.path / "server.log"

    @property
    def temporary(self) -> Path:
        """The server's temporary files."""
        return self.path / "tmp"


@contextlib.contextmanager
def folder(chosen: Path | None) -> Iterator[Folder]:
    """A new folder, which is kept if it was chosen."""
    with contextlib.ExitStack() as stack:
        path = chosen or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path.mkdir(parents=True, exist_ok=chosen is None)
        (path / "tmp").mkdir()
        yield Folder(path)


def watched_server(values: Mapping[str, Any], place: Folder, *flags: str) -> ServerProcess:
    """Start our server with nested settings; the TurboMind engine runs on the stand-ins for a GPU.

    Args:
        values: The settings, `engine.kind` among them.
        place: Of its log and its temporary files.
        flags: Of `scripts.load.watch.program`.
    """
    stand_in, settings = None, dict(values)
    if settings["engine"]["kind"] == "turbomind":
        # Its cache of grammars, which no setting bounds, would take days to be full.
        stand_in = ("--scripted", "--step-ms", "10", "--grammar-cache-kib", "256")
        model = str(make_model(place.path / "model", None))
        settings["model"] = {"path": model} | settings.get("model", {})
    changes = [word for change in flat(settings) for word in ("--set", change)]
    command = python(
        "scripts.load.watch.program",
        *flags,
        "serve",
        "--port",
        "{port}",
        *changes,
        stand_in=stand_in,
    )
    os.environ["TMPDIR"] = str(place.temporary)  # the server inherits it
    return ServerProcess(command, place.log)


async def served_name(server: ServerProcess) -> str:
    """The name of its model."""
    answer = await exchange(server.address, request_bytes("/v1/models", method="GET"))
    return str(json.loads(bytes(answer.body))["data"][0]["id"])


async def metrics_of(server: ServerProcess) -> str:
    """What it shows to Prometheus."""
    answer = await exchange(server.address, request_bytes("/metrics", method="GET"))
    return bytes(answer.body).decode()
