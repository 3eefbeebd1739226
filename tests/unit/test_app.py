"""Starting the engine and the media workers."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from internvl_server.app import _start
from internvl_server.errors import StartupError


class Part:
    """An engine or a media preparer that fails, or never finishes starting."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self.was_cancelled = False

    async def start(self) -> None:
        if self._error is not None:
            raise self._error
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise


async def start(engine: Part, media: Part) -> list[StartupError]:
    failures: list[StartupError] = []
    services = SimpleNamespace(engine=engine, media=media)
    async with asyncio.timeout(60):
        await _start(cast(Any, services), failures.append)
    return failures


@pytest.mark.parametrize("error", [StartupError("no weights"), RuntimeError("no weights")])
async def test_a_failing_engine_stops_the_start_of_the_media_workers(error: Exception) -> None:
    media = Part()
    [failure] = await start(Part(error), media)
    assert "no weights" in failure.message
    assert media.was_cancelled


async def test_failing_media_workers_stop_the_start_of_the_engine() -> None:
    engine = Part()
    [failure] = await start(engine, Part(OSError("no memory")))
    assert "no memory" in failure.message
    assert engine.was_cancelled
