"""The echo engine: answers without a model, for tests and client development."""

from internvl_server.engine.base import Capability

__all__ = ["CAPABILITIES"]

# Guided decoding needs llguidance in addition.
CAPABILITIES = frozenset(Capability) - {Capability.GUIDED_TOOL_CALLS}
