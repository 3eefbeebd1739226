"""Engines on the stand-in loop, and LMDeploy's own server beside them."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from internvl_server.checkpoint.files import Checkpoint, load_checkpoint
from internvl_server.engine.turbomind.engine import TurbomindEngine
from internvl_server.settings import ModelSettings, TurbomindSettings

from tests.lmdeploy.checkpoints import make_checkpoint
from tests.lmdeploy.native import Loop, stand_ins

__all__ = ["checkpoints", "loop", "make_engine"]

MakeEngine = Callable[..., Awaitable[TurbomindEngine]]


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
