"""The capabilities of every engine, for the reference tables; imports no runtime."""

from collections.abc import Mapping

from internvl_server.engine import cpu, echo, turbomind
from internvl_server.engine.base import Capability

__all__ = ["CAPABILITIES"]

CAPABILITIES: Mapping[str, frozenset[Capability]] = {
    "cpu": cpu.CAPABILITIES,
    "turbomind": turbomind.CAPABILITIES,
    "echo": echo.CAPABILITIES,
}
