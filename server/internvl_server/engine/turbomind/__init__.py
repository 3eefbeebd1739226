"""The TurboMind engine: LMDeploy on NVIDIA GPUs.

`engine.py` accepts requests, `requests/` runs each on a native handle, `runtime.py` loads LMDeploy.
"""

from internvl_server.engine.base import Capability

__all__ = ["CAPABILITIES", "PENALTIES"]

PENALTIES = frozenset({Capability.PRESENCE_PENALTY, Capability.FREQUENCY_PENALTY})
CAPABILITIES = frozenset(Capability) - PENALTIES - {Capability.LOGIT_BIAS}
