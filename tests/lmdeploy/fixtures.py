"""Engines on the stand-in loop, and LMDeploy's own server beside them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from internvl_server.checkpoint.files import Checkpoint, load_checkpoint
from internvl_server.core import Constraint
from internvl_server.engine.guided.compiler import Judgement
from internvl_server.engine.turbomind.engine import TurbomindEngine
from internvl_server.settings import ModelSettings, TurbomindSettings

from tests.lmdeploy.checkpoints import make_checkpoint
from tests.lmdeploy.native import Loop, stand_ins

__all__ = ["checkpoints", "in_other_processes", "judge_here", "loop", "make_engine"]

MakeEngine = Callable[..., Awaitable[TurbomindEngine]]


class JudgeHere:
    """Judges in this process, because another one takes seconds to import xgrammar."""

    def __init__(self, program: str, *config: str) -> None:
        self._config = config

    async def judge(self, constraint: Constraint) -> Judgement:
        from internvl_server.engine.turbomind.guided.judge import judge

        return await asyncio.to_thread(judge, constraint, *self._config)

    async def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def judge_here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge constraints here, unless a test asks for `in_other_processes`."""
    if "in_other_processes" not in request.fixturenames:
        monkeypatch.setattr("internvl_server.engine.turbomind.engine.ProcessJudge", JudgeHere)


@pytest.fixture
def in_other_processes() -> None:
    """The test judges constraints as the server does."""


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    """A checkpoint of each layout."""
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = {layout: make_checkpoint(folder / layout, layout) for layout in ("hf", "authors")}
    return {layout: load_checkpoint(ModelSettings(path=str(p))) for layout, p in paths.items()}


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    """The stand-in for the native engine, in place while the test runs."""
    monkeypatch.setattr("internvl_server.app.check_backend", lambda settings: ())
    loop = Loop()
    with stand_ins(loop):
        yield loop


@pytest.fixture
async def make_engine(loop: Loop, checkpoints: dict[str, Checkpoint]) -> AsyncIterator[MakeEngine]:
    """Starts engines with settings of the test's own; closes them."""
    engines: list[TurbomindEngine] = []

    async def make(
        layout: str = "hf", *, max_num_seqs: int = 4, **settings: object
    ) -> TurbomindEngine:
        engine = TurbomindEngine(
            checkpoints[layout], TurbomindSettings(**settings),
            max_num_seqs=max_num_seqs, max_model_len=checkpoints[layout].max_model_len,
        )  # fmt: skip
        engines.append(engine)
        await engine.start()
        loop.calls.clear()  # of the trial requests
        loop.max_active = 0
        return engine

    yield make
    for engine in engines:
        await engine.close()
