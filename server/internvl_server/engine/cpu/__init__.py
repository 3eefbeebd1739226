"""The CPU engine: InternVL3 in plain PyTorch, with continuous batching on one thread.

`engine.py` is its asyncio side, `worker.py` its thread, `scheduler.py` decides what a step
computes, `runner.py` computes it with the model of `vision.py` and `decoder.py`, whose tensors
`weights.py` loads.
"""

from internvl_server.engine.cpu.engine import CpuEngine

__all__ = ["CpuEngine"]
