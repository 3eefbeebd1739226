"""What each engine can do, as its `info` says and the README's table shows."""

from collections.abc import Mapping

from server.engine.base import COMMON_CAPABILITIES, Capability

__all__ = ["CAPABILITIES"]

CAPABILITIES: Mapping[str, frozenset[Capability]] = {
    "cpu": frozenset(Capability),
    "turbomind": COMMON_CAPABILITIES
    | {Capability.LOGPROBS, Capability.GUIDE, Capability.MIN_TOKENS},
    "echo": frozenset(Capability) - {Capability.GUIDE},
}
