"""The raw pipeline as a system beside the servers: a program that is asked line by line."""

import asyncio
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.gpu_bench.raw import MARK
from scripts.load.rounds import Round
from scripts.load.servers import ServerError, python

__all__ = ["RawPipeline"]

_LINE_BYTES = 1 << 30


class RawPipeline:
    """LMDeploy's engine and `async_stream_infer`, without tokenizing, media and HTTP."""

    name = "raw"

    def __init__(
        self, values: dict[str, Any], work: Path, *, stand_in: Sequence[str] | None
    ) -> None:
        path = work / "raw.json"
        path.write_text(json.dumps(values))
        self._command = python("scripts.gpu_bench.raw", str(path), stand_in=stand_in)
        self._log = work / "raw.log"
        self._process: asyncio.subprocess.Process

    async def start(self) -> float:
        """Seconds until it can generate."""
        start = asyncio.get_running_loop().time()
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                limit=_LINE_BYTES,
            )  # fmt: skip
        await self._answer()
        return asyncio.get_running_loop().time() - start

    async def measure(self, bodies: list[bytes], clients: int) -> Round:
        """Raises ServerError if it has ended."""
        task = {"bodies": [body.decode() for body in bodies], "clients": clients}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(task).encode() + b"\n")
        await self._process.stdin.drain()
        return Round(**await self._answer())

    async def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            if line.startswith(MARK.encode()):
                return dict(json.loads(line[len(MARK) :]))
        lines = self._log.read_text(errors="replace").splitlines()
        raise ServerError(f"exit code {await self._process.wait()}: {' '.join(lines[-3:])[-400:]}")

    async def stop(self) -> None:
        if self._process.returncode is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                await asyncio.wait_for(self._process.wait(), 60)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
