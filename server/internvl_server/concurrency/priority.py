"""Lets a process that computes for long give way to the server, whose event loop computes for moments."""

import ctypes
import os
from ctypes import c_int32, c_long, c_uint32, c_uint64
from typing import ClassVar

__all__ = ["NICENESS", "give_way"]

NICENESS = 5
"""Of the processes that decode or compile for a request, which must not keep the others from being served."""

_SLICE_NS = 100_000_000  # the longest that Linux allows
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}


class _Attributes(ctypes.Structure):
    """The kernel's `struct sched_attr`, version 0."""

    _fields_: ClassVar = [
        ("size", c_uint32),
        ("policy", c_uint32),
        ("flags", c_uint64),
        ("nice", c_int32),
        ("priority", c_uint32),
        ("runtime", c_uint64),
        ("deadline", c_uint64),
        ("period", c_uint64),
    ]


def give_way(niceness: int) -> None:
    """Lower the priority of this process, and let those that wake up interrupt it at once.

    By itself, niceness decides about shares of a processor, and only within a session where Linux groups
    processes by sessions (`man 7 sched`). A process that wakes up would wait for up to a timer tick, 4 ms. It
    does not wait for one that has asked for longer slices than its own, which costs that one no share (Linux
    6.12; other systems ignore it).
    """
    os.nice(niceness)
    if (number := _SCHED_SETATTR.get(os.uname().machine)) is None:
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    wanted = _Attributes(ctypes.sizeof(_Attributes), os.SCHED_OTHER, 0, nice, 0, _SLICE_NS, 0, 0)
    ctypes.CDLL(None).syscall(c_long(number), c_long(0), ctypes.byref(wanted), c_long(0))
