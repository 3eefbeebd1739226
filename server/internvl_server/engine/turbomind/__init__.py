"""The TurboMind engine: LMDeploy on NVIDIA GPUs.

`engine.py` accepts requests, `jobs.py` gives each a native handle, `runtime.py` drives LMDeploy.
"""

from internvl_server.engine.base import Capability

__all__ = ["CAPABILITIES", "PENALTIES"]

PENALTIES = frozenset({Capability.PRESENCE_PENALTY, Capability.FREQUENCY_PENALTY})
CAPABILITIES = frozenset(Capability) - PENALTIES - {Capability.LOGIT_BIAS}
