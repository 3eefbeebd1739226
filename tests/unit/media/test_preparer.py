import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from internvl_server.concurrency.sharing import SharedBudget
from internvl_server.core import Detail
from internvl_server.errors import (
    ContextLengthExceededError,
    EngineOverloadedError,
    Field,
    ImageDecodeError,
    ImageFetchError,
    ImageTooLargeError,
    ImageUrlError,
    InvalidRequestError,
)
from internvl_server.media.encoded import Reservation
from internvl_server.media.preparer import MediaPreparer
from internvl_server.media.tile_budget import ImageBudget
from internvl_server.settings import MediaSettings

from tests.cut_tiles import cut_tiles
from tests.unit.media.conftest import StubHost, data_url, encode, make_image, reference, tokens

WIDE = data_url(encode(make_image(1344, 336), "PNG"))
SMALL = data_url(encode(make_image(64, 48), "PNG"))


@pytest.fixture
async def preparer(settings: MediaSettings) -> AsyncIterator[MediaPreparer]:
    preparer = MediaPreparer(settings, auto_max_tiles=6)
    await preparer.start()
    yield preparer
    await preparer.close()


def num_other_tasks() -> int:
    return len(asyncio.all_tasks()) - 1


class TestTiles:
    async def test_nothing(self, preparer: MediaPreparer) -> None:
        assert await preparer.prepare(()) == ()

    @pytest.mark.parametrize(
        ("detail", "max_tiles", "num_tiles"),
        [
            (Detail.LOW, None, 1),
            (Detail.MEDIUM, None, 5),
            (Detail.AUTO, None, 5),
            (Detail.HIGH, None, 5),
            (Detail.ORIGINAL, None, 5),
            (Detail.LOW, 3, 4),
            (Detail.HIGH, 1, 1),
            (Detail.AUTO, 40, 5),
        ],
    )
    async def test_detail(
        self, preparer: MediaPreparer, detail: Detail, max_tiles: int | None, num_tiles: int
    ) -> None:
        [tiles] = await preparer.prepare([reference(WIDE, detail=detail, max_tiles=max_tiles)])
        assert tiles.num_tiles == num_tiles
        assert tiles.size == (1344, 336)

    async def test_auto_and_high_differ(self, preparer: MediaPreparer) -> None:
        url = data_url(encode(make_image(1600, 800), "JPEG"))
        auto, high = await preparer.prepare([reference(url), reference(url, detail=Detail.HIGH)])
        assert auto.grid == (2, 1)
        assert high.grid == (4, 2)

    async def test_order_is_kept(self, preparer: MediaPreparer, host: StubHost) -> None:
        images = [make_image(50 + n, 40, seed=n) for n in range(5)]

        async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
            number = int(head.split()[1][1:])
            await asyncio.sleep(0.05 * (5 - number) / 5)
            body = encode(images[number])
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

        host.answer = answer
        references = [reference(host.url(f"/{n}")) for n in range(4)]
        references.append(reference(data_url(encode(images[4]))))
        prepared = await preparer.prepare(references)
        assert [tiles.size for tiles in prepared] == [image.size for image in images]
        for tiles, image in zip(prepared, images, strict=True):
            assert np.array_equal(tiles.pixels, cut_tiles(image, 6))

    async def test_other_tile_side(self, settings: MediaSettings) -> None:
        preparer = MediaPreparer(settings, tile_px=28, auto_max_tiles=4)
        await preparer.start()
        [tiles] = await preparer.prepare([reference(WIDE)])
        assert tiles.pixels.shape == (5, 3, 28, 28)
        await preparer.close()


class TestBudget:
    async def test_images_share_the_tiles(self, preparer: MediaPreparer) -> None:
        references = [reference(WIDE), reference(WIDE), reference(SMALL, detail=Detail.LOW)]
        prepared = await preparer.prepare(references, budget=tokens(7 * 256))
        assert [tiles.num_tiles for tiles in prepared] == [3, 3, 1]
        prepared = await preparer.prepare(references, budget=tokens(11 * 256 + 255))
        assert [tiles.num_tiles for tiles in prepared] == [5, 5, 1]

    async def test_no_room_for_a_tile_each(self, preparer: MediaPreparer) -> None:
        for room in (2 * 256 - 1, 0, -5):
            with pytest.raises(ContextLengthExceededError) as error:
                await preparer.prepare([reference(WIDE)] * 2, budget=tokens(room))
            assert error.value.param is Field.PROMPT

    async def test_request_has_a_budget(self, settings: MediaSettings) -> None:
        preparer = MediaPreparer(
            settings.model_copy(update={"max_tiles_per_request": 4}), auto_max_tiles=6
        )
        await preparer.start()
        prepared = await preparer.prepare([reference(WIDE, max_tiles=40)])
        assert [tiles.num_tiles for tiles in prepared] == [4]
        await preparer.close()

    async def test_images_of_earlier_turns_give_way(self, preparer: MediaPreparer) -> None:
        references = [reference(SMALL, detail=Detail.LOW), reference(WIDE), reference(WIDE)]
        for num_earlier, counts in ((0, [1, 3, 3]), (1, [1, 3, 3]), (2, [1, 1, 5])):
            budget = tokens(8 * 256, num_earlier)
            prepared = await preparer.prepare(references, budget=budget)
            measured = await preparer.measure(references, budget=budget)
            assert [tiles.num_tiles for tiles in prepared] == counts
            assert [image.num_tiles for image in measured] == counts
            for images in (prepared, measured):
                assert [image.num_requested_tiles for image in images] == [1, 5, 5]

    async def test_one_tile_each_may_take_what_is_kept_for_the_answer(
        self, preparer: MediaPreparer
    ) -> None:
        budget = ImageBudget(max_tokens=3 * 256, shared_tokens=256)
        prepared = await preparer.prepare([reference(WIDE)] * 3, budget=budget)
        assert [tiles.num_tiles for tiles in prepared] == [1, 1, 1]
        with pytest.raises(ContextLengthExceededError, match="4 images"):
            await preparer.prepare([reference(WIDE)] * 4, budget=budget)

    async def test_the_newest_image_of_a_long_conversation_keeps_its_tiles(
        self, settings: MediaSettings
    ) -> None:
        """With one tile for each earlier image, even where these alone take all shared tiles."""
        limits = settings.model_copy(update={"shared_tiles": 5, "max_tiles_per_request": 20})
        preparer = MediaPreparer(limits)
        await preparer.start()
        for num_earlier, newest in ((1, 5), (2, 5), (10, 5), (15, 5), (16, 4), (17, 3), (19, 1)):
            references = [reference(WIDE)] * (num_earlier + 1)
            prepared = await preparer.prepare(references, budget=tokens(10**6, num_earlier))
            assert [t.num_tiles for t in prepared] == [1] * num_earlier + [newest]
        await preparer.close()

    async def test_many_images_get_one_tile_each(self, preparer: MediaPreparer) -> None:
        prepared = await preparer.prepare([reference(WIDE)] * 65)
        assert [tiles.num_tiles for tiles in prepared] == [1] * 65

    async def test_too_many_images_are_refused_before_the_first_fetch(
        self, preparer: MediaPreparer, host: StubHost
    ) -> None:
        with pytest.raises(InvalidRequestError, match="at most 256"):
            await preparer.prepare([reference(host.url())] * 1000)
        assert host.num_connections == 0


class TestFailure:
    @pytest.mark.parametrize(
        ("url", "error"),
        [
            ("data:image/png;base64,AAAA", ImageDecodeError),
            ("data:image/png;base64,A*_=", ImageUrlError),
            ("data:text/plain,x", ImageUrlError),
            ("file:///etc/passwd", ImageUrlError),
            (data_url(encode(make_image(1000, 2))), ImageTooLargeError),
        ],
    )
    async def test_error_names_the_image(
        self, preparer: MediaPreparer, url: str, error: type[InvalidRequestError]
    ) -> None:
        references = [
            reference(SMALL, param="messages[0].content[0].image_url"),
            reference(url, param="messages[0].content[1].image_url"),
        ]
        for budget in (None, tokens(4 * 256)):
            with pytest.raises(error) as failure:
                await preparer.prepare(references, budget=budget)
            assert failure.value.param == "messages[0].content[1].image_url"
        assert await preparer.prepare(references[:1])

    async def test_first_failure_cancels_the_rest(
        self, preparer: MediaPreparer, host: StubHost
    ) -> None:
        stalled = 0

        async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
            nonlocal stalled
            if b"/stall" in head:
                stalled += 1
                await asyncio.sleep(60)
            while stalled < 3:
                await asyncio.sleep(0.01)
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

        host.answer = answer
        before = num_other_tasks()
        references = [reference(host.url("/stall")) for _ in range(3)]
        references.append(reference(host.url("/missing"), param="missing"))
        with pytest.raises(ImageFetchError) as error:
            await preparer.prepare(references)
        assert error.value.param == "missing"
        async with asyncio.timeout(60):
            while num_other_tasks() - before > 4:  # the stub host's own
                await asyncio.sleep(0.01)

    async def test_fetches_of_one_request_are_bounded(
        self, preparer: MediaPreparer, host: StubHost
    ) -> None:
        body = encode(make_image())
        running = most = 0
        are_four = asyncio.Event()

        async def answer(_head: bytes, writer: asyncio.StreamWriter) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            if running == 4:
                are_four.set()
            await are_four.wait()
            await asyncio.sleep(0.03)
            running -= 1
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

        host.answer = answer
        assert len(await preparer.prepare([reference(host.url())] * 8)) == 8
        assert most == 4

    async def test_fetched_images_are_limited_together(
        self, settings: MediaSettings, host: StubHost
    ) -> None:
        body = encode(make_image())
        host.reply(body)
        limits = settings.model_copy(update={"max_fetched_bytes": 3 * len(body)})
        preparer = MediaPreparer(limits)
        await preparer.start()
        assert len(await preparer.prepare([reference(host.url())] * 3)) == 3
        with pytest.raises(ImageTooLargeError, match="max_fetched_bytes"):
            await preparer.prepare([reference(host.url())] * 4)
        await preparer.close()

    @pytest.mark.parametrize("delay_s", [0.0, 0.005, 0.02, 0.05, 0.1])
    async def test_cancelled_request_leaves_nothing(
        self, preparer: MediaPreparer, host: StubHost, delay_s: float
    ) -> None:
        big = encode(make_image(3000, 2000), "JPEG")
        host.reply(big)
        others = [encode(make_image(3000, 2000, seed=seed), "JPEG") for seed in (1, 2)]
        references = [reference(host.url()), *(reference(data_url(other)) for other in others)]
        await preparer.prepare(references[1:2])
        before = [worker._process.pid for worker in preparer._pool._supply.workers]
        for _ in range(3):
            task = asyncio.create_task(preparer.prepare(references))
            await asyncio.sleep(delay_s)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert len(await preparer.prepare(references[:2])) == 2
        assert [worker._process.pid for worker in preparer._pool._supply.workers] == before
        gc.collect()

    async def test_errors_hold_no_internals(self, preparer: MediaPreparer) -> None:
        urls: list[Any] = ["http://127.0.0.1/x", "data:image/png;base64," + "AAAA" * 50]
        for url in urls:
            with pytest.raises(InvalidRequestError) as error:
                await preparer.prepare([reference(url)])
            for word in ("0x", "object at", "Traceback", "127.0", "/work", "PIL"):
                assert word not in error.value.message


class TestReservation:
    """Memory is reserved before anything is fetched, and what is not needed is given back."""

    @pytest.mark.parametrize(("num_copies", "max_tiles"), [(1, 1000), (3, 1000), (2, 50)])
    async def test_the_tiles_reserved_are_those_made(
        self, preparer: MediaPreparer, num_copies: int, max_tiles: int
    ) -> None:
        parts = [reference(url) for url in (WIDE, SMALL, WIDE)]
        demand = preparer.demand(parts)
        assert (demand.num_bytes, demand.num_frames) == (0, 0)
        assert (demand.min_tiles, demand.max_tiles) == (3, 7 + 7 + 7)
        budget = SharedBudget(0, max_tiles, refusal="full", wait_s=0.05)
        with await budget.reserve(0, min(21, max_tiles // 2) * num_copies) as share:
            reservation = Reservation(share, num_copies=num_copies)
            tiles = await preparer.prepare(parts, reservation=reservation)
            assert budget.in_use == (0, sum(image.num_tiles for image in tiles) * num_copies)
        assert budget.in_use == (0, 0)

    async def test_a_request_without_memory_for_its_tiles_is_refused_before_decoding(
        self, preparer: MediaPreparer, host: StubHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host.reply(encode(make_image(1344, 336), "PNG"), "Content-Type: image/png")
        decoded: list[int] = []
        monkeypatch.setattr(preparer._pool, "tile", lambda *_, **__: decoded.append(1))
        budget = SharedBudget(1 << 30, 8, refusal="full", wait_s=0.05)
        with budget.reserve_now(0, 4), budget.reserve_now(1 << 20, 1) as share:
            reservation = Reservation(share)
            preparing = preparer.prepare([reference(host.url())], reservation=reservation)
            [error] = await asyncio.gather(preparing, return_exceptions=True)
        assert isinstance(error, EngineOverloadedError)
        assert (len(host.requests), decoded) == (1, [])
        assert num_other_tasks() == 0

    @pytest.mark.parametrize("says_size", [True, False])
    async def test_bytes_are_given_back_when_sizes_are_known(
        self, preparer: MediaPreparer, host: StubHost, settings: MediaSettings, says_size: bool
    ) -> None:
        body = encode(make_image(1344, 336), "PNG")
        size = f"Content-Length: {len(body)}\r\n" if says_size else ""
        head = f"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n{size}\r\n".encode()
        half, has_all = asyncio.Event(), asyncio.Event()

        async def answer(_head: bytes, writer: asyncio.StreamWriter) -> None:
            writer.write(head + body[:9])
            await writer.drain()
            half.set()
            await has_all.wait()
            writer.write(body[9:])
            await writer.drain()

        host.answer = answer
        demand = preparer.demand([reference(host.url()), reference(WIDE)])
        assert demand.num_bytes == settings.max_image_bytes
        budget = SharedBudget(1 << 30, 100, refusal="full")
        with await budget.reserve(demand.num_bytes, demand.max_tiles) as share:
            prepared = asyncio.create_task(
                preparer.prepare(
                    [reference(host.url()), reference(WIDE)], reservation=Reservation(share)
                )
            )
            await half.wait()
            await asyncio.sleep(0.05)
            async with asyncio.timeout(60):
                while share.amounts[0] != (len(body) if says_size else settings.max_image_bytes):
                    await asyncio.sleep(0.01)
            has_all.set()
            await prepared
            assert share.amounts[0] == 0

    async def test_images_that_are_too_large_together_are_not_read(
        self, preparer: MediaPreparer, host: StubHost, settings: MediaSettings
    ) -> None:
        preparer._settings = settings.model_copy(update={"max_fetched_bytes": 1500})
        head = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n"

        async def answer(_head: bytes, writer: asyncio.StreamWriter) -> None:
            writer.write(head)
            await asyncio.sleep(60)

        host.answer = answer
        with pytest.raises(ImageTooLargeError):
            await preparer.prepare([reference(host.url()), reference(host.url())])
