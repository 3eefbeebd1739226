"""The CPU engine: InternVL3 in plain PyTorch, with continuous batching on one thread.

`engine.py` is its asyncio side and `worker.py` its thread. `scheduler.py` decides what a step computes;
`runner.py` computes it with the model of `model/` and chooses tokens with `sampling/`.
"""

from internvl_server.engine.base import Capability

__all__ = ["CAPABILITIES"]

# Guided decoding needs a byte-level vocabulary in addition; `EngineInfo` says what the loaded model can do.
CAPABILITIES = frozenset(Capability)
