"""Videos through fetcher, worker processes and tile budget, without the HTTP API."""

import asyncio
import os
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from internvl_server.core import FrameList, ImageMeasure, VideoReference
from internvl_server.errors import (
    ContextLengthExceededError,
    EngineOverloadedError,
    EngineUnavailableError,
    ImageFetchError,
    InvalidRequestError,
    VideoBlockedError,
    VideoDecodeError,
    VideoFetchError,
    VideoFetchTimeoutError,
    VideoTooLargeError,
    VideoUrlError,
)
from internvl_server.media.decoding.frame_sampling import sample_frames
from internvl_server.media.decoding.video import decode_frames
from internvl_server.media.pixels.levels import level_values
from internvl_server.media.preparer import MediaPreparer
from internvl_server.media.workers import process as worker_process
from internvl_server.settings import MediaSettings

from tests.cut_tiles import cut_tiles
from tests.unit.media.conftest import StubHost, data_url, encode, make_image, reference, tokens
from tests.unit.media.decoding.test_video import LIMITS
from tests.video_files import colour, video, video_url

PARAM = "messages[0].content[0].video_url"
GOOD = video()
WIDE = data_url(encode(make_image(1344, 336)))


def asked(url: str = "", num_frames: int = 4) -> VideoReference:
    return VideoReference(url or video_url(GOOD), num_frames, PARAM)


async def started(settings: MediaSettings, **changes: object) -> MediaPreparer:
    changes = {"num_video_workers": 1} | changes
    preparer = MediaPreparer(settings.model_copy(update=changes), auto_max_tiles=6)
    await preparer.start()
    return preparer


@pytest.fixture
async def preparer(settings: MediaSettings) -> AsyncIterator[MediaPreparer]:
    preparer = await started(settings)
    yield preparer
    await preparer.close()


def video_pids(preparer: MediaPreparer) -> list[int]:
    return [worker._process.pid for worker in preparer._videos._pool._supply.workers]


class TestTiles:
    async def test_frames_equal_those_of_this_process(self, preparer: MediaPreparer) -> None:
        tiles = await preparer.prepare([asked(num_frames=6)])
        for tile, frame in zip(tiles, decode_frames(GOOD, 6, LIMITS), strict=True):
            assert np.array_equal(tile.pixels, cut_tiles(frame, 1))
            assert (tile.grid, tile.size, tile.num_tiles) == ((1, 1), (64, 48), 1)

    async def test_frames_can_be_resized_fast(self, settings: MediaSettings) -> None:
        preparer = await started(settings, resize="fast")
        tiles = await preparer.prepare([asked(num_frames=6)])
        await preparer.close()
        assert len(tiles) == 6

    async def test_order_over_images_frames_and_videos(self, preparer: MediaPreparer) -> None:
        frames = FrameList(
            tuple(reference(data_url(encode(make_image(30 + n, 20)))) for n in (0, 1))
        )
        media_parts = [asked(num_frames=2), reference(WIDE), frames, asked(num_frames=1)]
        tiles = await preparer.prepare(media_parts)
        assert [t.size[0] for t in tiles] == [64, 64, 1344, 30, 31, 64]
        assert [t.num_tiles for t in tiles] == [1, 1, 5, 1, 1, 1]
        values = level_values()[0]
        reds = [int(np.searchsorted(values, tiles[n].pixels[0, 0, 0, 0])) for n in (0, 1, 5)]
        indices = [*sample_frames(20, 2), *sample_frames(20, 1)]
        assert np.allclose(reds, [colour(index)[0] for index in indices], atol=5)

    async def test_frames_have_different_fingerprints(self, preparer: MediaPreparer) -> None:
        first = [t.fingerprint for t in await preparer.prepare([asked(num_frames=4)])]
        again = [t.fingerprint for t in await preparer.prepare([asked(num_frames=4)])]
        fewer = [t.fingerprint for t in await preparer.prepare([asked(num_frames=3)])]
        assert first == again
        assert len({*first, *fewer}) == 7

    async def test_wide_frames_of_a_list_are_one_tile_each(self, preparer: MediaPreparer) -> None:
        frames = FrameList((reference(WIDE), reference(WIDE)))
        assert [t.num_tiles for t in await preparer.prepare([frames])] == [1, 1]

    async def test_measure_agrees(self, preparer: MediaPreparer) -> None:
        turned = asked(video_url(video(rotation=90)), num_frames=3)
        media_parts = [turned, reference(WIDE), FrameList((reference(WIDE),))]
        measured = await preparer.measure(media_parts, budget=tokens(8 * 256))
        tiles = await preparer.prepare(media_parts, budget=tokens(8 * 256))
        assert measured == tuple(
            ImageMeasure(t.size, t.num_tiles, t.num_requested_tiles, t.grid) for t in tiles
        )
        assert [m.num_tiles for m in measured] == [1, 1, 1, 4, 1]


class TestBudget:
    async def test_images_share_the_tiles_that_frames_leave(self, preparer: MediaPreparer) -> None:
        media_parts = [asked(num_frames=4), reference(WIDE), reference(WIDE)]
        tiles = await preparer.prepare(media_parts, budget=tokens(10 * 256))
        assert [t.num_tiles for t in tiles] == [1, 1, 1, 1, 3, 3]
        with pytest.raises(ContextLengthExceededError, match="6 images and frames"):
            await preparer.prepare(media_parts, budget=tokens(6 * 256 - 1))

    async def test_counts_are_checked_before_the_first_fetch(
        self, preparer: MediaPreparer, host: StubHost
    ) -> None:
        for media_parts in ([asked(host.url())] * 33, [asked(host.url(), 32)] * 9):
            with pytest.raises(InvalidRequestError, match="are allowed"):
                await preparer.prepare(media_parts)
        assert host.num_connections == 0


class TestFetch:
    async def test_video_is_fetched(self, preparer: MediaPreparer, host: StubHost) -> None:
        for media_type in ("video/mp4", "image/gif", "application/octet-stream", "VIDEO/X; a=b"):
            host.reply(GOOD, f"Content-Type: {media_type}")
            assert len(await preparer.prepare([asked(host.url("/v.mp4"))])) == 4
        assert b"accept: video/*" in host.requests[0].lower()

    @pytest.mark.parametrize("media_type", ["image/png", "text/html", "application/json"])
    async def test_other_media_are_refused(
        self, preparer: MediaPreparer, host: StubHost, media_type: str
    ) -> None:
        host.reply(GOOD, f"Content-Type: {media_type}")
        with pytest.raises(VideoFetchError, match="other than a video") as error:
            await preparer.prepare([asked(host.url())])
        assert error.value.param == PARAM

    async def test_limits_are_those_of_videos(
        self, settings: MediaSettings, host: StubHost
    ) -> None:
        limits = {"max_image_bytes": 100, "max_video_bytes": len(GOOD), "fetch_timeout_s": 0.01}
        preparer = await started(settings, **limits)
        host.reply(GOOD)
        assert len(await preparer.prepare([asked(host.url())])) == 4
        assert len(await preparer.prepare([asked()])) == 4
        host.reply(GOOD + b"\0")
        for url in (host.url(), video_url(GOOD + b"\0" * 3)):
            with pytest.raises(VideoTooLargeError, match="max_video_bytes"):
                await preparer.prepare([asked(url)])
        await preparer.close()

    @pytest.mark.parametrize(
        ("url", "error"),
        [
            ("http://10.0.0.1/v.mp4", VideoBlockedError),
            ("http://127.0.0.1:1/v.mp4", VideoBlockedError),
            ("ftp://example.com/v.mp4", VideoUrlError),
            ("data:image/png;base64,AAAA", VideoUrlError),
            ("data:video/mp4,AAAA", VideoUrlError),
            ("data:video/mp4;base64,A*_=", VideoUrlError),
            ("data:video/mp4;base64,", VideoUrlError),
        ],
    )
    async def test_address_policy_holds(
        self, preparer: MediaPreparer, url: str, error: type[Exception]
    ) -> None:
        with pytest.raises(error) as caught:
            await preparer.prepare([asked(url)])
        assert caught.value.param == PARAM  # type: ignore[attr-defined]
        assert "image URL" not in str(caught.value)

    async def test_redirect_to_a_private_address_is_refused(
        self, preparer: MediaPreparer, host: StubHost
    ) -> None:
        host.reply(b"", "Location: http://10.0.0.1/", status="302 Found")
        with pytest.raises(VideoBlockedError):
            await preparer.prepare([asked(host.url())])

    async def test_slow_host(self, settings: MediaSettings, host: StubHost) -> None:
        async def answer(_head: bytes, _writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(60)

        host.answer = answer
        preparer = await started(settings, video_fetch_timeout_s=0.2)
        with pytest.raises(VideoFetchTimeoutError):
            await preparer.prepare([asked(host.url())])
        await preparer.close()

    async def test_more_videos_than_fit_into_memory_wait_or_are_refused(
        self, settings: MediaSettings, host: StubHost
    ) -> None:
        arrived = asyncio.Event()

        async def answer(_head: bytes, _writer: asyncio.StreamWriter) -> None:
            arrived.set()
            await asyncio.sleep(60)

        host.answer = answer
        preparer = await started(settings, max_videos_in_flight=1, video_fetch_timeout_s=1.0)
        await preparer.prepare([asked()])  # starts a process, so that another one takes no time
        preparer._fetcher._settings = settings.model_copy(update={"video_fetch_timeout_s": 600})
        stalled = asyncio.create_task(preparer.prepare([asked(host.url())]))
        await arrived.wait()
        with pytest.raises(EngineOverloadedError):
            await preparer.prepare([asked()])
        stalled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stalled
        assert len(await preparer.prepare([asked(), asked()])) == 8
        await preparer.close()

    async def test_frame_that_cannot_be_fetched_is_named(
        self, preparer: MediaPreparer, host: StubHost
    ) -> None:
        host.reply(b"", status="404 Not Found")
        good, bad = reference(WIDE, param="video[0]"), reference(host.url(), param="video[1]")
        with pytest.raises(ImageFetchError) as error:
            await preparer.prepare([FrameList((good, bad))])
        assert error.value.param == "video[1]"


def slow_gif() -> bytes:
    """Few bytes, a canvas of 25 million pixels, and 20,000 frames on it: minutes of work."""
    head = b"GIF89a" + struct.pack("<HHBBB", 5000, 5000, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    delay = b"!\xf9\x04\x08\x02\0\0\0"
    return head + (delay + b",\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0") * 20_000 + b";"


class TestWorkers:
    async def test_no_process_without_a_video(self, preparer: MediaPreparer) -> None:
        await preparer.prepare([reference(WIDE)])
        assert video_pids(preparer) == []
        await preparer.prepare([asked()])
        assert len(video_pids(preparer)) == 1

    async def test_bomb_times_out_and_affects_no_image(
        self, settings: MediaSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worker_process, "CPU_SHARE", 0.05)
        preparer = await started(settings, video_timeout_s=20.0)
        bomb = asyncio.create_task(
            preparer.prepare([asked(video_url(slow_gif(), "image/gif"), num_frames=8)])
        )
        while not any(w.is_busy for w in preparer._videos._pool._supply.workers):
            await asyncio.sleep(0.01)
        assert len(await preparer.prepare([reference(WIDE)])) == 1
        with pytest.raises(VideoDecodeError, match="video took too long"):
            await bomb
        assert len(await preparer.prepare([asked()])) == 4
        await preparer.close()

    async def test_a_video_whose_worker_dies_is_decoded_by_another(
        self, preparer: MediaPreparer
    ) -> None:
        await preparer.prepare([asked()])
        [pid] = video_pids(preparer)
        os.kill(pid, signal.SIGSTOP)
        other = asyncio.create_task(preparer.prepare([asked(num_frames=6)]))
        while not any(w.is_busy for w in preparer._videos._pool._supply.workers):
            await asyncio.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        assert len(await other) == 6
        assert video_pids(preparer) != [pid]

    async def test_memory_is_bounded(self, settings: MediaSettings) -> None:
        """A worker gets no more address space than its limits need, whatever a file requests."""
        preparer = await started(settings, max_image_pixels=10_000)
        await preparer.prepare([asked()])
        [worker] = preparer._videos._pool._supply.workers
        limits = Path(f"/proc/{worker._process.pid}/limits").read_text()
        assert str(worker._spec.max_memory_bytes) in limits
        with pytest.raises(VideoTooLargeError, match="max_image_pixels"):
            await preparer.prepare([asked(video_url(video(size=(200, 200))))])
        await preparer.close()

    async def test_out_of_memory_is_an_answer(
        self, settings: MediaSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small = property(lambda spec: 430 << 20)
        big = asked(video_url(video(size=(4096, 4096), num_frames=2)))
        preparer = await started(settings)
        assert len(await preparer.prepare([big])) == 4
        await preparer.close()
        monkeypatch.setattr(worker_process.WorkerSpec, "max_memory_bytes", small)
        preparer = await started(settings)
        with pytest.raises(VideoDecodeError):
            await preparer.prepare([big])
        await preparer.close()

    async def test_memory_of_large_inputs_is_released(self, preparer: MediaPreparer) -> None:
        padding = 20 << 20
        padded = GOOD + struct.pack(">I", padding) + b"free" + bytes(padding - 8)
        await preparer.prepare([asked(video_url(padded))])
        [worker] = preparer._videos._pool._supply.workers
        status = Path(f"/proc/{worker._process.pid}/status").read_text()
        [shared] = [int(line.split()[1]) for line in status.splitlines() if "RssShmem" in line]
        assert shared < 16 << 10
        assert len(await preparer.prepare([asked()])) == 4

    async def test_worker_that_cannot_start_is_replaced_later(
        self, preparer: MediaPreparer
    ) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "executable", "/bin/false")
            with pytest.raises(EngineUnavailableError, match="do not start"):
                await preparer.prepare([asked()])
        assert len(await preparer.prepare([asked()])) == 4

    async def test_a_closed_pool_refuses_jobs(self, settings: MediaSettings) -> None:
        preparer = await started(settings)
        await preparer.close()
        with pytest.raises(EngineUnavailableError):
            await preparer.prepare([asked()])

    def test_worker_imports_little(self) -> None:
        script = (
            "import sys, internvl_server.media.workers.video_worker\n"
            "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'pydantic', 'fastapi',"
            " 'httpx2', 'asyncio', 'transformers') or m == 'internvl_server.settings'])"
        )
        run = subprocess.run(
            [sys.executable, "-c", script],
            cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert run.stdout.strip() == "[]"

    async def test_worker_inherits_nothing_of_the_server(
        self, preparer: MediaPreparer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("INTERNVL_SERVER__API_KEYS", "secret")
        await preparer.prepare([asked()])
        process = Path(f"/proc/{video_pids(preparer)[0]}")
        assert b"secret" not in (process / "environ").read_bytes()
        files = [os.readlink(file) for file in (process / "fd").iterdir()]
        assert len([file for file in files if file.startswith("socket:")]) == 1
        others = {file for file in files if not file.startswith("socket:")}
        assert others == {"/dev/null", "/memfd:tiles (deleted)"}
        assert len(list((process / "task").iterdir())) == 1
