"""The TurboMind engine: LMDeploy on NVIDIA GPUs.

`engine.py` accepts requests, `jobs.py` gives each a native handle, `runtime.py` drives LMDeploy.
"""

from internvl_server.engine.base import Capability

__all__ = ["CAPABILITIES"]

CAPABILITIES = frozenset(Capability) - {
    Capability.LOGIT_BIAS,
    Capability.PRESENCE_PENALTY,
    Capability.FREQUENCY_PENALTY,
}
