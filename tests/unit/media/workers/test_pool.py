import asyncio
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from internvl_server.errors import (
    EngineUnavailableError,
    ImageDecodeError,
    ImageTooLargeError,
    ImageUrlError,
    StartupError,
)
from internvl_server.media.decoding.image import DecodeLimits, decode_image
from internvl_server.media.encoded import EncodedMedia
from internvl_server.media.tiling import select_grid
from internvl_server.media.workers import image_worker
from internvl_server.media.workers.pool import DecodePool
from internvl_server.media.workers.process import WorkerProcess, WorkerSpec
from internvl_server.media.workers.supply import PoolHealth

from tests.cut_tiles import cut_tiles
from tests.heic_files import heic
from tests.unit.media.conftest import data_url, encode, make_image

LIMITS = DecodeLimits(max_pixels=30_000_000, max_side_px=16_000, max_aspect_ratio=200)
SPEC = WorkerSpec(limits=LIMITS, tile_px=448, max_tiles=13, max_input_bytes=4 << 20)
GOOD = EncodedMedia.of(encode(make_image(900, 500), "JPEG"))
SLOW = EncodedMedia.of(encode(make_image(6000, 4000), "JPEG"))


def num_open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
async def pool() -> AsyncIterator[DecodePool]:
    pool = DecodePool(SPEC, num_workers=1, timeout_s=30)
    await pool.start()
    yield pool
    await pool.close()


def pids(pool: DecodePool) -> list[int]:
    return sorted(worker._process.pid for worker in pool._supply.workers)


async def until_busy(pool: DecodePool) -> None:
    while not any(worker.is_busy for worker in pool._supply.workers):
        await asyncio.sleep(0.002)


def stop(pool: DecodePool) -> None:
    """Let the workers do nothing, so that they are still busy when the test goes on."""
    for pid in pids(pool):
        os.kill(pid, signal.SIGSTOP)


def end(pid: int, number: int) -> None:
    """End a stopped worker by a signal."""
    os.kill(pid, number)
    os.kill(pid, signal.SIGCONT)


def private_bytes(pid: int) -> int:
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) << 10


class TestResults:
    async def test_tiles_equal_those_of_this_process(self, pool: DecodePool) -> None:
        for image in (GOOD, EncodedMedia.of(encode(make_image(448, 448, seed=1)))):
            assert isinstance(image.data, bytes)
            tiles = await pool.tile(image, max_tiles=12)
            decoded = decode_image(image.data, LIMITS)
            assert np.array_equal(tiles.pixels, cut_tiles(decoded, 12))
            assert tiles.grid == select_grid(*decoded.size, max_tiles=12)
            assert tiles.size == decoded.size

    async def test_results_are_copies(self, pool: DecodePool) -> None:
        first = await pool.tile(GOOD, max_tiles=12)
        kept = first.pixels.copy()
        await pool.tile(EncodedMedia.of(encode(make_image(900, 500, seed=2))), max_tiles=12)
        assert np.array_equal(first.pixels, kept)

    async def test_a_worker_can_load_what_heic_needs(self, pool: DecodePool) -> None:
        image = EncodedMedia.of(heic(make_image(96, 64), turn=1))
        assert await pool.read_size(image) == (64, 96)
        assert (await pool.tile(image, max_tiles=1)).size == (64, 96)

    async def test_base64_is_decoded_in_the_worker(self, pool: DecodePool) -> None:
        assert isinstance(GOOD.data, bytes)
        text = data_url(GOOD.data).partition(",")[2]
        tiles = await pool.tile(EncodedMedia.of(text.encode(), is_base64=True), max_tiles=3)
        assert np.array_equal(tiles.pixels, (await pool.tile(GOOD, max_tiles=3)).pixels)
        with pytest.raises(ImageUrlError):
            await pool.tile(EncodedMedia.of(text[:-1].encode() + b"!", is_base64=True), max_tiles=3)

    async def test_size(self, pool: DecodePool) -> None:
        assert await pool.read_size(GOOD) == (900, 500)

    async def test_errors_come_back_as_they_are(self, pool: DecodePool) -> None:
        before = pids(pool)
        with pytest.raises(ImageDecodeError, match="JPEG, PNG, WebP, GIF, BMP"):
            await pool.tile(EncodedMedia.of(b"no image"), max_tiles=1)
        with pytest.raises(ImageTooLargeError, match="times the shortest"):
            await pool.read_size(EncodedMedia.of(encode(make_image(1000, 2))))
        with pytest.raises(ImageDecodeError):
            await pool.tile(EncodedMedia.of(b""), max_tiles=1)
        assert pids(pool) == before

    async def test_more_images_than_workers(self, pool: DecodePool) -> None:
        results = await asyncio.gather(*(pool.tile(GOOD, max_tiles=n) for n in range(1, 9)))
        assert [tiles.grid[0] * tiles.grid[1] <= n for n, tiles in enumerate(results, 1)]


class TestDeath:
    async def test_an_image_whose_worker_dies_is_decoded_by_another(self) -> None:
        pool = DecodePool(SPEC, num_workers=2, timeout_s=30)
        await pool.start()
        stop(pool)
        slow = asyncio.create_task(pool.tile(SLOW, max_tiles=12))
        await until_busy(pool)
        [busy] = [worker for worker in pool._supply.workers if worker.is_busy]
        good = asyncio.create_task(pool.tile(GOOD, max_tiles=12))
        for pid in pids(pool):
            end(pid, signal.SIGKILL if pid == busy._process.pid else signal.SIGCONT)
        assert (await slow).size == (6000, 4000)
        assert (await good).size == (900, 500)
        assert all([(await pool.tile(GOOD, max_tiles=1)).num_tiles == 1 for _ in range(4)])
        assert len(pids(pool)) == 2
        assert busy._process.pid not in pids(pool)
        await pool.close()

    async def test_an_image_that_loses_two_workers_may_be_sent_again(
        self, pool: DecodePool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wait_ready = WorkerProcess.wait_ready

        def wait_and_stop(worker: WorkerProcess) -> None:
            wait_ready(worker)
            os.kill(worker._process.pid, signal.SIGSTOP)

        monkeypatch.setattr(WorkerProcess, "wait_ready", wait_and_stop)
        stop(pool)
        task = asyncio.create_task(pool.tile(SLOW, max_tiles=12))
        for num_started in (1, 2):
            while pool.health().num_started < num_started:
                await asyncio.sleep(0.002)
            await until_busy(pool)
            end(pids(pool)[0], signal.SIGSEGV)
        with pytest.raises(EngineUnavailableError, match="try again"):
            await task
        monkeypatch.undo()
        assert (await pool.tile(GOOD, max_tiles=1)).num_tiles == 1
        health = pool.health()
        assert (health.num_alive, health.num_started, health.num_died) == (1, 3, 2)

    @pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
    async def test_death_while_idle_fails_nothing(
        self, pool: DecodePool, signal_number: int
    ) -> None:
        [pid] = pids(pool)
        os.kill(pid, signal_number)
        for worker in pool._supply.workers:
            worker._process.wait()
        assert (await pool.tile(GOOD, max_tiles=1)).num_tiles == 1
        assert pids(pool) != [pid]
        assert pool.health() == PoolHealth(num_alive=1, num_started=2, num_died=1)

    async def test_twenty_deaths(self, pool: DecodePool) -> None:
        for _ in range(20):
            stop(pool)
            task = asyncio.create_task(pool.tile(SLOW, max_tiles=1))
            await until_busy(pool)
            end(pids(pool)[0], signal.SIGSEGV)
            assert (await task).num_tiles == 1
        assert pool.health() == PoolHealth(num_alive=1, num_started=21, num_died=20)

    async def test_an_image_that_takes_too_much_processor_time_is_refused(
        self, pool: DecodePool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = pids(pool)
        monkeypatch.setattr("internvl_server.media.workers.process.CPU_SHARE", 0.001)
        with pytest.raises(ImageDecodeError, match="too long"):
            await pool.tile(SLOW, max_tiles=12)
        monkeypatch.undo()
        assert (await pool.tile(GOOD, max_tiles=1)).num_tiles == 1
        assert pids(pool) != before
        assert pool.health().num_killed == 1

    async def test_a_worker_that_stands_still_is_not_the_fault_of_the_image(
        self, pool: DecodePool
    ) -> None:
        [pid] = pids(pool)
        os.kill(pid, signal.SIGSTOP)
        pool._timeout_s = 0.1
        with pytest.raises(EngineUnavailableError, match="try again"):
            await pool.tile(GOOD, max_tiles=12)
        pool._timeout_s = 30
        assert (await pool.tile(GOOD, max_tiles=1)).num_tiles == 1
        assert pids(pool) != [pid]
        assert pool.health().num_killed == 1

    async def test_workers_that_cannot_start_any_more(
        self, pool: DecodePool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "executable", "/bin/false")
        os.kill(pids(pool)[0], signal.SIGKILL)
        for worker in pool._supply.workers:
            worker._process.wait()
        for _ in range(2):
            with pytest.raises(EngineUnavailableError, match="do not start"):
                await pool.tile(GOOD, max_tiles=1)
        assert "do not start" in pool.health().problem
        assert pool.health().num_died == 1
        assert not pool._supply.workers  # what did not start is not kept, with its pipe and memory
        monkeypatch.undo()
        async with asyncio.timeout(60):
            while pool.health().problem:  # which starts one
                await asyncio.sleep(0.01)
        assert pool.health().num_alive == 1

    async def test_one_start_at_a_time_is_tried_however_often_the_health_is_asked_for(
        self, pool: DecodePool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "executable", "/bin/false")
        os.kill(pids(pool)[0], signal.SIGKILL)
        with pytest.raises(EngineUnavailableError, match="do not start"):
            await pool.tile(GOOD, max_tiles=1)
        may_go_on, tried = threading.Event(), list[bool]()
        monkeypatch.setattr(pool._supply, "fill", lambda: tried.append(may_go_on.wait(30)))
        for _ in range(5):
            pool.health()
        may_go_on.set()
        await pool._on_thread(lambda: None)  # comes after all that was begun
        assert tried == [True]

    async def test_terminal_signals_do_not_end_a_worker(self, pool: DecodePool) -> None:
        [pid] = pids(pool)
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
        assert (await pool.tile(GOOD, max_tiles=1)).num_tiles == 1
        assert pids(pool) == [pid]
        assert os.getsid(pid) != os.getsid(0)

    @pytest.mark.parametrize(
        "answer",
        [b"", b"[]", b"no json", b"{}", b'{"error": "SystemExit", "message": ""}', b'{"error": 1}',
         b'{"grid": [4, 4], "size": [1, 1]}', b'{"grid": [-1, -1], "size": [1, 1]}',
         b'{"grid": [true, true], "size": [1, 1]}', b'{"grid": [1], "size": [1, 1]}',
         b'{"grid": "11", "size": [1, 1]}', b"x" * 5000, b"[" * 4000],
    )  # fmt: skip
    async def test_invalid_answer_ends_the_worker(
        self, pool: DecodePool, answer: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker that was taken over can only spoil its own image."""
        before = pids(pool)
        [worker] = pool._supply.workers
        ours, theirs = multiprocessing.Pipe()
        worker._pipe.close()
        monkeypatch.setattr(worker, "_pipe", ours)
        with theirs:
            if answer:
                theirs.send_bytes(answer)
            else:
                theirs.close()
            assert (await pool.tile(GOOD, max_tiles=12)).size == (900, 500)
        assert pids(pool) != before
        assert pool.health().num_died == 1


class TestOwnership:
    async def test_cancelled_call_leaves_nothing(self, pool: DecodePool) -> None:
        await pool.tile(GOOD, max_tiles=12)
        num_files, before = num_open_files(), pids(pool)
        stop(pool)
        tasks = [asyncio.create_task(pool.tile(SLOW, max_tiles=12)) for _ in range(5)]
        await until_busy(pool)
        for task in tasks:
            task.cancel()
        os.kill(before[0], signal.SIGCONT)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (await pool.tile(GOOD, max_tiles=1)).num_tiles == 1
        assert pids(pool) == before
        assert num_open_files() == num_files

    async def test_close_leaves_nothing(self) -> None:
        num_files, num_threads = num_open_files(), threading.active_count()
        segments = set(Path("/dev/shm").iterdir())
        pool = DecodePool(SPEC, num_workers=2, timeout_s=30)
        await pool.start()
        started = pids(pool)
        stop(pool)
        task = asyncio.create_task(pool.tile(SLOW, max_tiles=12))
        await until_busy(pool)
        queued = [asyncio.create_task(pool.tile(GOOD, max_tiles=1)) for _ in range(5)]
        await asyncio.sleep(0)
        await pool.close()
        for call in (task, *queued, pool.tile(GOOD, max_tiles=1)):
            with pytest.raises(EngineUnavailableError):
                await call
        assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
        await asyncio.get_running_loop().shutdown_default_executor()
        assert num_open_files() == num_files
        assert threading.active_count() == num_threads
        assert set(Path("/dev/shm").iterdir()) == segments

    async def test_close_without_start(self) -> None:
        pool = DecodePool(SPEC, num_workers=1, timeout_s=1)
        with pytest.raises(EngineUnavailableError):
            await pool.tile(GOOD, max_tiles=1)
        await pool.close()

    async def test_worker_that_cannot_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "executable", "/bin/false")
        pool = DecodePool(SPEC, num_workers=2, timeout_s=1)
        with pytest.raises(StartupError):
            await pool.start()
        await pool.close()

    async def test_a_cancelled_start_leaves_no_job_waiting(self) -> None:
        pool = DecodePool(SPEC, num_workers=1, timeout_s=30)
        starting = asyncio.create_task(pool.start())
        await asyncio.sleep(0)
        job = asyncio.create_task(pool.tile(GOOD, max_tiles=1))
        await asyncio.sleep(0)
        starting.cancel()
        async with asyncio.timeout(60):
            await asyncio.gather(job, return_exceptions=True)
            await pool.close()

    def test_worker_ends_with_its_parent(self) -> None:
        script = (
            "import asyncio, os, signal\n"
            "from tests.unit.media.workers.test_pool import SPEC, DecodePool, pids\n"
            "async def main():\n"
            "    pool = DecodePool(SPEC, num_workers=1, timeout_s=1)\n"
            "    await pool.start()\n"
            "    print(pids(pool)[0], flush=True)\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
            "asyncio.run(main())\n"
        )
        root = Path(__file__).parents[4]
        run = subprocess.run(
            [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False
        )
        status = Path(f"/proc/{int(run.stdout)}/status")
        for _ in range(3000):
            if not status.exists() or "State:\tZ" in status.read_text():
                return
            threading.Event().wait(0.02)
        pytest.fail("the worker outlived its parent")


class TestIsolation:
    async def test_worker_inherits_nothing_of_the_server(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("INTERNVL_SERVER__API_KEYS", "secret")
        listener = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        pool = DecodePool(SPEC, num_workers=2, timeout_s=30)
        await pool.start()
        await pool.tile(GOOD, max_tiles=12)
        for pid in pids(pool):
            process = Path(f"/proc/{pid}")
            assert b"secret" not in (process / "environ").read_bytes()
            files = [os.readlink(file) for file in (process / "fd").iterdir()]
            assert len([file for file in files if file.startswith("socket:")]) == 1
            others = {file for file in files if not file.startswith("socket:")}
            assert others == {"/dev/null", "/memfd:tiles (deleted)"}
            assert len(list((process / "task").iterdir())) == 1
            assert os.getpriority(os.PRIO_PROCESS, pid) == min(
                19, os.getpriority(os.PRIO_PROCESS, 0) + 5
            )
            limits = (process / "limits").read_text()
            assert str(SPEC.max_memory_bytes) in limits
            loaded = (process / "maps").read_text()
            assert "pydantic_core" not in loaded
            assert "torch" not in loaded
        await pool.close()
        listener.close()
        await listener.wait_closed()

    async def test_without_a_filter_there_are_limits_and_a_warning(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As on a kernel without seccomp, or a processor that seccompy does not know."""
        monkeypatch.setattr("platform.machine", lambda: "riscv64")
        pool = DecodePool(SPEC, num_workers=1, timeout_s=30)
        await pool.start()
        assert (await pool.tile(GOOD, max_tiles=1)).num_tiles == 1
        assert "not filtered: the system calls of this processor are not known" in caplog.text
        limits = Path(f"/proc/{pids(pool)[0]}/limits").read_text()
        [files] = [line.split() for line in limits.splitlines() if "open files" in line]
        assert files[3:5] == ["0", "0"]
        await pool.close()

    def test_worker_imports_little(self) -> None:
        script = (
            "import sys, internvl_server.media.workers.image_worker\n"
            "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'pydantic', 'fastapi',"
            " 'httpx2', 'asyncio', 'transformers') or m == 'internvl_server.settings'])"
        )
        run = subprocess.run(
            [sys.executable, "-c", script],
            cwd=Path(__file__).parents[4], capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert run.stdout.strip() == "[]"

    async def test_a_large_image_is_not_kept(self, pool: DecodePool) -> None:
        await pool.tile(GOOD, max_tiles=12)
        [pid] = pids(pool)
        usual = private_bytes(pid)
        large = encode(make_image(6000, 4000), "JPEG")
        broken = EncodedMedia.of(large[: len(large) // 2])
        with pytest.raises(ImageDecodeError):
            await pool.tile(broken, max_tiles=12)
        # Whether another image comes or not.
        deadline = time.monotonic() + image_worker.KEPT_S + 60
        while private_bytes(pid) > usual + (16 << 20):
            assert time.monotonic() < deadline, private_bytes(pid) - usual
            await asyncio.sleep(0.05)
        assert pids(pool) == [pid]

    async def test_memory_is_bounded(self) -> None:
        limits = DecodeLimits(max_pixels=10_000, max_side_px=16_000, max_aspect_ratio=200)
        spec = WorkerSpec(limits=limits, tile_px=448, max_tiles=1, max_input_bytes=1 << 20)
        pool = DecodePool(spec, num_workers=1, timeout_s=30)
        await pool.start()
        [worker] = pool._supply.workers
        assert worker._spec.max_memory_bytes < 1 << 30
        assert (
            await pool.tile(EncodedMedia.of(encode(make_image(100, 100))), max_tiles=1)
        ).grid == (
            1,
            1,
        )
        await pool.close()


async def test_a_closed_pool_refuses_both_calls() -> None:
    pool = DecodePool(SPEC, num_workers=1, timeout_s=30)
    for work in (pool.tile(GOOD, max_tiles=1), pool.read_size(GOOD)):
        with pytest.raises(EngineUnavailableError):
            await work
    await pool.start()
    await pool.close()
    for work in (pool.tile(GOOD, max_tiles=1), pool.read_size(GOOD)):
        with pytest.raises(EngineUnavailableError):
            await work
