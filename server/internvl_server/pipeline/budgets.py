"""What all requests together may hold, each kind in one budget.

A request takes from the budgets in the order in which they are listed, and never waits for an earlier one
while it holds a later one. Requests can therefore not wait for each other.
"""

from internvl_server.concurrency.caller import Clients
from internvl_server.concurrency.memory import MemoryGuard
from internvl_server.concurrency.sharing import SharedBudget
from internvl_server.core import PixelType
from internvl_server.errors import EngineOverloadedError
from internvl_server.settings import LimitSettings

__all__ = ["Budgets"]


class Budgets:
    """The budgets of a server.

    Args:
        limits: Their sizes, among others.
        num_slots: Most requests that the engine computes at the same time.
        pixel_type: Of its tiles. `max_tiles_in_flight` is the number of those with values of 16 bits.

    Attributes:
        requests: From before the body is read until the last byte of the answer is sent.
        bodies: Bytes of bodies, until the engine has taken the request.
        media: Bytes of fetched images until they are tiled, and tiles until the answer has ended.
        slots: Places in the engine. Those that wait for one wait here, where clients take turns, and not in
            the engine. A few more than the engine computes keep it busy when a request ends.
    """

    def __init__(
        self,
        limits: LimitSettings,
        *,
        num_slots: int,
        pixel_type: PixelType = PixelType.BFLOAT16,
    ) -> None:
        self.limits = limits
        wait_s = limits.queue_timeout_s
        self.clients = clients = Clients(limits.max_share_per_key)
        self.requests = SharedBudget(
            limits.max_in_flight,
            refusal="Too many requests are in flight. Retry later.",
            clients=clients,
        )
        self.bodies = SharedBudget(
            limits.max_body_bytes_in_flight,
            refusal="Too many bytes of other requests are in flight. Retry later.",
            wait_s=wait_s,
            clients=clients,
        )
        self.media = SharedBudget(
            limits.max_fetched_bytes_in_flight,
            max(1, limits.max_tiles_in_flight * 2 // pixel_type.storage.itemsize),
            refusal="Too many images of other requests are in flight. Retry later.",
            wait_s=wait_s,
            clients=clients,
        )
        self.num_slots = num_slots
        self.slots = SharedBudget(
            num_slots + max(1, num_slots // 8),
            refusal="The engine is busy with other requests. Retry later.",
            wait_s=wait_s,
            clients=clients,
        )
        self._memory = MemoryGuard()

    def check_memory(self) -> None:
        """Refuse a request while memory is short.

        Raises:
            EngineOverloadedError: It is.
        """
        if self._memory.usage() > self.limits.max_memory:
            raise EngineOverloadedError("The server's memory is full. Retry later.")

    def check_memory_for_media(self) -> None:
        """Refuse images while memory is short. Raises as `check_memory`."""
        if self._memory.usage() > self.limits.max_memory_for_media:
            raise EngineOverloadedError(
                "The server has too little memory for images now. Retry later."
            )
