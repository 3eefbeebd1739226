"""How an engine judges its own health: by the time since it last made progress."""

import time

from internvl_server.engine.base import EngineHealth

__all__ = ["STALLED_EXIT_CODE", "health_of"]

# Of a process that ends because its engine has hung; anything but 0 makes a supervisor start it again.
STALLED_EXIT_CODE = 3
# A step of an engine takes well under a second. After a longer one others serve better,
_STALL_S = 30.0
# and after one of this length only a new process may.
_DEAD_S = 90.0


def health_of(
    state: str, *, num_running: int = 0, num_waiting: int = 0, last_progress: float | None = None
) -> EngineHealth:
    """Ready while the state is "running" and the engine, if it has work, has made progress in 30 s.

    Args:
        state: Completes the sentence "The engine is …".
        num_running: Requests being computed.
        num_waiting: Requests accepted but not yet computed.
        last_progress: When the last step ended, or when work arrived after a pause, by
            `time.monotonic`. None for an engine that cannot hang.
    """
    reason, silence_s = "ok", 0.0
    if last_progress is not None and (num_running or num_waiting):
        silence_s = time.monotonic() - last_progress
    if state != "running":
        reason = f"The engine is {state}."
    elif silence_s > _STALL_S:
        reason = f"The engine has made no progress for {silence_s:.0f} s."
    return EngineHealth(
        reason == "ok",
        reason,
        num_running,
        num_waiting,
        is_alive=silence_s <= _DEAD_S,
        silence_s=silence_s,
    )
