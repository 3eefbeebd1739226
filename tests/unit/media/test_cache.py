"""What is kept, what is shared while it is made, and what is dropped."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import numpy as np
import pytest
from internvl_server.core import ImageTiles, VideoReference
from internvl_server.errors import ImageDecodeError
from internvl_server.media.cache import TileCache
from internvl_server.media.preparer import MediaPreparer
from internvl_server.settings import MediaSettings

from tests.unit.media.conftest import StubHost, data_url, encode, make_image, reference
from tests.video_files import video, video_url

TILE_BYTES = 3 * 8 * 8 * 4


def tiles(num_tiles: int = 1) -> tuple[ImageTiles, ...]:
    return (ImageTiles(np.zeros((num_tiles, 3, 8, 8), np.float32), (num_tiles, 1), (8, 8)),)


class Maker:
    """Makes tiles when it may, and counts how often."""

    def __init__(self, num_tiles: int = 1, error: Exception | None = None) -> None:
        self.num_started = self.num_cancelled = 0
        self.may_end = asyncio.Event()
        self._num_tiles, self._error = num_tiles, error

    async def __call__(self) -> tuple[ImageTiles, ...]:
        self.num_started += 1
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        if self._error is not None:
            raise self._error
        return tiles(self._num_tiles)


async def ready(num_tiles: int = 1) -> tuple[ImageTiles, ...]:
    return tiles(num_tiles)


async def asks(cache: TileCache, maker: Maker, number: int) -> list[asyncio.Task]:
    tasks = [asyncio.create_task(cache.get((b"key",), maker)) for _ in range(number)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_what_is_kept_is_not_made_again() -> None:
    cache, maker = TileCache(1 << 20), Maker()
    maker.may_end.set()
    first = await cache.get((b"key", 12), maker)
    assert await cache.get((b"key", 12), maker) is first
    assert await cache.get((b"key", 6), maker) is not first
    assert maker.num_started == 2


async def test_nothing_is_kept_without_memory() -> None:
    cache, maker = TileCache(0), Maker()
    maker.may_end.set()
    first = await cache.get((b"key",), maker)
    assert await cache.get((b"key",), maker) is not first
    assert cache.num_bytes == 0


async def test_what_was_used_last_stays() -> None:
    cache = TileCache(4 * TILE_BYTES)
    kept = {name: await cache.get((name,), ready) for name in (b"a", b"b", b"c", b"d")}
    await cache.get((b"a",), ready)
    await cache.get((b"e",), ready)
    assert cache.num_bytes == 4 * TILE_BYTES
    assert await cache.get((b"a",), ready) is kept[b"a"]
    assert await cache.get((b"b",), ready) is not kept[b"b"]


async def test_what_would_evict_most_others_is_not_kept() -> None:
    cache, maker = TileCache(8 * TILE_BYTES), Maker(num_tiles=3)
    maker.may_end.set()
    assert (await cache.get((b"large",), maker))[0].num_tiles == 3
    assert cache.num_bytes == 0


async def test_those_who_ask_meanwhile_wait_for_the_same_tiles() -> None:
    cache, maker = TileCache(0), Maker()
    first, *others = await asks(cache, maker, 8)
    first.cancel()
    maker.may_end.set()
    found = await asyncio.gather(*others)
    assert (maker.num_started, maker.num_cancelled) == (1, 0)
    assert all(each is found[0] for each in found)
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_work_that_all_have_left_is_cancelled() -> None:
    cache, maker = TileCache(1 << 20), Maker()
    left = await asks(cache, maker, 3)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    assert maker.num_cancelled == 1
    maker.may_end.set()
    await cache.get((b"key",), maker)  # does not wait for what was cancelled
    assert maker.num_started == 2


async def test_who_asks_right_after_all_have_left_is_served() -> None:
    cache, maker = TileCache(1 << 20), Maker()
    [left] = await asks(cache, maker, 1)
    left.cancel()
    [late] = await asks(cache, maker, 1)
    maker.may_end.set()
    assert await late == await cache.get((b"key",), maker)


async def test_a_failure_is_raised_for_all_and_not_kept() -> None:
    cache, maker = TileCache(1 << 20), Maker(error=ImageDecodeError("broken"))
    waiting = await asks(cache, maker, 3)
    maker.may_end.set()
    failures = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(failure) for failure in failures] == ["broken"] * 3
    assert len({id(failure) for failure in failures}) == 3, "each request adds its own field"
    with pytest.raises(ImageDecodeError):
        await cache.get((b"key",), maker)
    assert maker.num_started == 2


def some_frames(num_frames: int) -> VideoReference:
    return VideoReference(video_url(video()), num_frames, "messages[0].content[0].video_url")


@pytest.fixture
async def preparer(settings: MediaSettings) -> AsyncIterator[MediaPreparer]:
    preparer = MediaPreparer(settings.model_copy(update={"cache_bytes": 64 << 20}))
    await preparer.start()
    yield preparer
    await preparer.close()


@pytest.fixture
def jobs(preparer: MediaPreparer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs that the workers have got."""
    done: list[str] = []

    def noted(pool: object, name: str) -> Callable[..., Awaitable[object]]:
        job = getattr(pool, name)

        def run(*args: object, **options: object) -> Awaitable[object]:
            done.append(name)
            return job(*args, **options)

        return run

    for pool in (preparer._pool, preparer._videos._pool):
        for name in ("tile", "read_size", "frames"):
            monkeypatch.setattr(pool, name, noted(pool, name))
    return done


async def test_an_image_is_one_entry_whether_inline_or_fetched(
    preparer: MediaPreparer, host: StubHost, jobs: list[str]
) -> None:
    data = encode(make_image(900, 500))
    host.reply(data)
    [inline] = await preparer.prepare([reference(data_url(data))])
    fetched, again = await preparer.prepare([reference(host.url()), reference(data_url(data))])
    assert fetched.pixels is inline.pixels is again.pixels
    assert fetched.fingerprint == inline.fingerprint
    assert jobs == ["tile"], "its header was not read first, and it was decoded once"
    await preparer.prepare([reference(host.url())])
    assert len(host.requests) == 2, "what is behind an address may have changed"


async def test_images_that_share_tiles_are_measured_once(
    preparer: MediaPreparer, jobs: list[str]
) -> None:
    references = [reference(data_url(encode(make_image(900, 500, seed=n)))) for n in range(6)]
    first = await preparer.prepare(references)
    assert sorted(jobs) == ["read_size"] * 6 + ["tile"] * 6
    again = await preparer.prepare(references)
    assert len(jobs) == 12
    assert [t.pixels is f.pixels for t, f in zip(again, first, strict=True)] == [True] * 6
    assert [t.num_requested_tiles for t in again] == [t.num_requested_tiles for t in first]


async def test_frames_are_kept(preparer: MediaPreparer, jobs: list[str]) -> None:
    asked = some_frames(4)
    first = await preparer.prepare([asked])
    again = await preparer.prepare([asked])
    assert jobs == ["frames"]
    assert [a.pixels is f.pixels for a, f in zip(again, first, strict=True)] == [True] * 4
    await preparer.prepare([some_frames(3)])
    assert jobs == ["frames"] * 2
