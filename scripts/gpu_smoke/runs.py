"""Runs a trial, either in a child process that holds the engine or against a server started for it."""

import asyncio
import json
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx2
from internvl_server.checkpoint.config import CheckpointConfig
from internvl_server.checkpoint.files import Checkpoint, load_checkpoint
from internvl_server.errors import StartupError
from internvl_server.settings import ModelSettings

from scripts.gpu_smoke import adapter
from scripts.gpu_smoke.checkpoints import make, twin_of
from scripts.gpu_smoke.deployment import DRAIN_S, Deployed, Machine, share_for
from scripts.gpu_smoke.memory import watched
from scripts.gpu_smoke.results import READY, TIME_LIMIT, Check, NotRunError, Results, State, must
from scripts.gpu_smoke.server.load import FITTING
from scripts.gpu_smoke.server.running import Running
from scripts.gpu_smoke.trials import PARITY, PEAK, Tolerance, Trial
from scripts.load.servers import ServerError, ServerProcess, python

__all__ = ["Lab"]

_SMALL_CONTEXT = 4096
_FOREVER_S = 86_400.0


@dataclass(frozen=True)
class Lab:
    """What all trials share.

    Args:
        machine: GPUs and settings.
        work: Folder of checkpoints, logs and results.
        results: Rows so far.
        folder: The checkpoint to try; None for random ones of `size`.
        size: A name of `scripts.make_random_checkpoint.SHAPES`.
        stand_in: Options of the stand-ins; None on a GPU.
        num_prompts: Of the comparison with transformers.
        num_aborts: In the engine; a third of them over HTTP.
        num_streams: Mixed ones at a time.
    """

    machine: Machine
    work: Path
    results: Results
    folder: Path | None
    size: str
    stand_in: Sequence[str] | None = None
    num_prompts: int = 64
    num_aborts: int = 1000
    num_streams: int = 64

    async def run(self, trial: Trial) -> None:
        """Make the checks of a trial that have no result yet."""
        if not self.results.missing(trial.name, trial.expected):
            return
        if time.monotonic() > self.results.deadline:
            self.results.explain(trial.name, TIME_LIMIT)
            return
        try:
            folder = self.folder or make(self.work, self.size, trial.kind)
            checkpoint = load_checkpoint(ModelSettings(path=str(folder)))
            deployed = self._deploy(trial, folder, checkpoint.config)
        except (StartupError, ValueError, OSError) as error:
            self.results.explain(trial.name, f"{error}"[:400])
            return
        run = self._in_process if trial.checks is None else self._over_http
        await run(trial, checkpoint, deployed)

    def _deploy(self, trial: Trial, folder: Path, config: CheckpointConfig) -> Deployed:
        changes = list(trial.changes)
        if trial.has_small_cache:
            context = min(_SMALL_CONTEXT, config.text.max_position_embeddings)
            free = min(gpu.free_bytes for gpu in self.machine.gpus)
            share = share_for(FITTING * context, config, free)
            changes += [
                f"model.max_model_len={context}",
                f"engine.turbomind.cache_max_entry_count={share:.6f}",
            ]
        return self.machine.deploy(folder, config, changes, trial.tp)

    async def _in_process(self, trial: Trial, checkpoint: Checkpoint, deployed: Deployed) -> None:
        """In a program, again for the rest when it crashes; then the comparison with transformers."""
        dump = self.work / f"{_slug(trial)}.logits"
        if self.results.missing(trial.name, adapter.CHECKS):
            with watched() as peak:
                has_loaded = await self._until_done(trial, deployed, dump)
            if not has_loaded:
                return
            # Also after the deadline, because a later run makes fewer requests.
            if not self.results.is_done(trial.name, PEAK):
                await self.results.make(trial.name, PEAK, partial(peak.beside, deployed.plan), 10)
        parity = partial(self._parity, trial.tolerance, checkpoint.path, dump)
        await self.results.run(trial.name, {PARITY: parity})

    async def _until_done(self, trial: Trial, deployed: Deployed, dump: Path) -> bool:
        """Whether the model was loaded."""
        results = self.results
        for _ in adapter.CHECKS:
            missing = results.missing(trial.name, adapter.CHECKS)
            left_s = results.deadline - time.monotonic()
            if not missing or left_s <= 0:
                break
            task = adapter.Task(
                trial.name, missing, deployed.values, str(self.work / "results.jsonl"),
                min(left_s, _FOREVER_S), str(dump), self.num_prompts, self.num_aborts,
            )  # fmt: skip
            path = self.work / f"{_slug(trial)}.json"
            task.write(path)
            log = self.work / f"{_slug(trial)}.log"
            command = python("scripts.gpu_smoke.adapter", str(path), stand_in=self.stand_in)
            try:
                code = await _run(command, log, min(left_s, _FOREVER_S))
            except TimeoutError:
                results.end_begun(trial.name, State.NOT_RUN, TIME_LIMIT)
                results.explain(trial.name, TIME_LIMIT)
                break
            reason = f"the process ended with {code}: {_last_line(log)}"
            if not results.end_begun(trial.name, State.FAILED, reason):
                if code or not results.is_passed(trial.name, READY):
                    results.explain(trial.name, reason if code else "it did not load")
                break
        return results.is_passed(trial.name, READY)

    async def _parity(self, tolerance: Tolerance, folder: Path, dump: Path) -> str:
        if not dump.exists():
            raise NotRunError("there are no logits to compare")
        twin = twin_of(folder)
        if load_checkpoint(ModelSettings(path=str(twin))).config.layout != "hf":
            raise NotRunError("transformers has no class for the authors' layout")
        log = dump.with_suffix(".reference")
        log.unlink(missing_ok=True)
        command = python("scripts.gpu_smoke.reference", str(twin), str(dump))
        code = await _run(command, log, _FOREVER_S)
        must(code == 0, f"transformers ended with {code}: {_last_line(log)}")
        found = json.loads(_last_line(log))
        figures = (
            f"cosine {found['cosine']:.5f}, likeliest token equal in {found['equal']:.0%} "
            f"({found['strictly']:.0%} without ties), "
            f"log probabilities at most {found['distance']:.3f} apart"
        )
        must(found["cosine"] > tolerance.cosine and found["equal"] >= tolerance.equal, figures)
        return figures

    async def _over_http(self, trial: Trial, checkpoint: Checkpoint, deployed: Deployed) -> None:
        command = python(
            "internvl_server",
            "serve",
            "--port",
            "{port}",
            stand_in=self.stand_in,
        )
        log = self.work / f"{_slug(trial)}.log"
        with (
            watched() as peak,
            ServerProcess([*command, *deployed.words], log) as process,
        ):
            await self.results.run(trial.name, {READY: _ready(process)})
            try:
                await process.wait_ready(self.results.deadline - time.monotonic())
            except ServerError as error:
                self.results.explain(trial.name, f"it did not load: {error}")
                return
            async with httpx2.AsyncClient(
                base_url=f"http://127.0.0.1:{process.port}", timeout=600,
                limits=httpx2.Limits(max_connections=1024),
            ) as client:  # fmt: skip
                running = Running(
                    process, client, checkpoint.tile_px, deployed.plan.deployment.context,
                    deployed.plan.deployment.max_num_seqs, DRAIN_S,
                    num_aborts=self.num_aborts * 3 // 10, mixed_streams=self.num_streams,
                    is_timed=self.stand_in is None,
                )  # fmt: skip
                assert trial.checks is not None
                checks = {name: _guarded(running, check) for name, check in trial.checks.items()}
                await self.results.run(trial.name, checks)
        await self.results.run(trial.name, {PEAK: partial(peak.beside, deployed.plan)})


def _ready(process: ServerProcess) -> Check:
    async def check() -> str:
        return f"loaded and tried in {await process.wait_ready():.1f} s"

    return check


def _guarded(running: Running, check: Callable[[Running], Awaitable[str]]) -> Check:
    """A check that starts the server again if an earlier one ended it, and says so if this one does."""

    async def guarded() -> str:
        if running.process.process.poll() is not None:
            running.process.restart()
        await running.process.wait_ready()
        try:
            return await check(running)
        except (httpx2.HTTPError, AssertionError) as error:
            await asyncio.sleep(0.5)
            try:
                running.process.check()
            except ServerError as ended:
                raise ServerError(f"the server ended: {ended}") from error
            raise

    return guarded


async def _run(command: list[str], log: Path, timeout_s: float) -> int:
    """The exit code of a program whose output goes to a file.

    Raises:
        TimeoutError: It took longer, and was killed.
    """
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(timeout_s):
                return await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][-2000:] if lines else ""


def _slug(trial: Trial) -> str:
    return "".join(char if char.isalnum() else "-" for char in trial.name.lower())
