"""What each engine can do, as its `info` says and the README's table shows."""

from collections.abc import Mapping

from internvl_server.engine.base import Capability

__all__ = ["CAPABILITIES"]

_COMMON = frozenset(map(Capability, ("top_k", "min_p", "repetition_penalty", "seed", "image_url")))

# With everything installed, and a vocabulary whose bytes are known.
CAPABILITIES: Mapping[str, frozenset[Capability]] = {
    "cpu": frozenset(Capability),
    "turbomind": _COMMON
    | {
        Capability.LOGPROBS,
        Capability.GUIDED_DECODING,
        Capability.GUIDED_TOOL_CALLS,
        Capability.MIN_TOKENS,
    },
    "echo": frozenset(Capability) - {Capability.GUIDED_TOOL_CALLS},
}
