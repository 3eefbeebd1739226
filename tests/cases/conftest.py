"""A server for each engine of this environment: echo and CPU, or TurboMind on the stand-in for its loop."""

import importlib.util
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from internvl_server.settings import Settings

from scripts.make_random_checkpoint import SHAPES, write_checkpoint
from tests.cases.asking import MODEL, CaseServer
from tests.live_server import LiveServer

HAS_LMDEPLOY = importlib.util.find_spec("lmdeploy") is not None
ENGINES = ["turbomind"] if HAS_LMDEPLOY else ["echo", pytest.param("cpu", marks=pytest.mark.model)]


@pytest.fixture(scope="session", params=ENGINES)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CaseServer]:
    """The whole server; on the CPU with the demo model, otherwise with a tiny checkpoint."""
    kind = request.param
    with ExitStack() as stack:
        settings: dict[str, Any] = {"engine": {"kind": kind}, "media": {"num_workers": 1}}
        if kind != "cpu":
            folder = tmp_path_factory.mktemp("cases") / "tiny"
            settings["model"] = {"path": str(make_checkpoint(kind, folder)), "served_name": MODEL}
        loop = start_loop(stack) if kind == "turbomind" else None
        live = stack.enter_context(LiveServer(Settings(**settings)))
        yield stack.enter_context(CaseServer(live, loop))


@pytest.fixture(autouse=True)
def _forget_the_answer(server: CaseServer) -> Iterator[None]:
    yield
    server.will_answer(None)


def make_checkpoint(kind: str, folder: Path) -> Path:
    """One with a long context: a character is a token."""
    if kind == "turbomind":
        from tests.lmdeploy.checkpoints import make_checkpoint

        make_checkpoint(folder, "hf")
    else:
        write_checkpoint(folder, SHAPES["tiny"], layout="hf", dtype="float32", seed=0)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 16_384
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def start_loop(stack: ExitStack) -> Any:
    """The stand-in for LMDeploy's native engine, until the stack is left."""
    from internvl_server.engine.turbomind import machine

    from tests.lmdeploy.native import Loop, stand_ins

    stack.enter_context(mock.patch.object(machine, "check_machine", return_value=()))
    loop = Loop()
    stack.enter_context(stand_ins(loop))
    return loop
