"""The side of the process that is confined. It imports little, because it is part of each start.

Nothing here can be undone by the process, whoever runs it.
"""

import ctypes
import errno
import json
import os
import resource
import signal
from ctypes import c_char_p, c_long, c_uint32, c_ulong, c_ushort
from typing import Any

__all__ = ["confine", "forbid_looking", "limit_time", "protect"]

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_SET_MODE_FILTER = 1
# For all threads.
_SECCOMP_TSYNC = 1
# Without the slower branch prediction that some kernels switch to, which protects secrets within a process.
# Kernels before 4.17 do not know it.
_SECCOMP_SPEC_ALLOW = 4
_CAPABILITY_VERSION = 0x20080522
_BYTES_PER_INSTRUCTION = 8


class _Program(ctypes.Structure):
    """The kernel's `struct sock_fprog`."""

    _fields_ = (("length", c_ushort), ("instructions", c_char_p))


def protect() -> None:
    """At the start of a process: others cannot read its memory, signals do not end it, and it dumps no core.

    It is killed when the thread that started it ends, as all do when the server is killed: a job that
    computes without an end does not notice that its pipe is closed.
    """
    # The parent ends its processes, also when a supervisor signals the whole process group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    forbid_looking()


def forbid_looking() -> None:
    """Keep other processes of the user from reading this one's memory, environment and descriptors."""
    _prctl(_PR_SET_DUMPABLE, 0)


def limit_time(limit_s: float) -> None:
    """End this process, native code included, after so many seconds of processor time; 0 ends the limit."""
    signal.setitimer(signal.ITIMER_PROF, limit_s)  # the default action of SIGPROF ends the process


def confine(rules: bytes) -> str:
    """Give up everything but memory and the open descriptors. The process must have imported all it needs.

    It cannot open a file or a socket any more, start a program or a process, signal or look into one, or
    gain rights.

    Args:
        rules: Made by `rules_for` in the server.

    Returns:
        Why the system calls are not filtered; empty if they are. The limits are in force either way.
    """
    described: dict[str, Any] = json.loads(rules)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))  # those that are open stay open
    if not described["has_threads"]:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    # No rights beyond those of the user, also if that is root: all sets of capabilities are empty.
    _libc().capset((c_uint32 * 2)(_CAPABILITY_VERSION, 0), (c_uint32 * 6)())
    try:
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _filter_calls(described["seccomp"], bytes.fromhex(described["program"]))
    except OSError as err:
        return str(err.strerror)
    return ""


def _filter_calls(number: int, program: bytes) -> None:
    if not program:
        raise OSError(0, "the system calls of this processor are not known")
    filtered = _Program(len(program) // _BYTES_PER_INSTRUCTION, program)
    try:
        _install(number, _SECCOMP_TSYNC | _SECCOMP_SPEC_ALLOW, filtered)
    except OSError as err:
        if err.errno != errno.EINVAL:
            raise
        _install(number, _SECCOMP_TSYNC, filtered)


def _install(number: int, flags: int, program: _Program) -> None:
    call = c_long(number), c_ulong(_SECCOMP_SET_MODE_FILTER), c_ulong(flags)
    result: int = _libc().syscall(*call, ctypes.byref(program))
    if result > 0:
        raise OSError(0, f"the thread {result} has another filter")
    _check(result)


def _prctl(option: int, value: int) -> None:
    _check(_libc().prctl(option, c_ulong(value), c_ulong(0), c_ulong(0), c_ulong(0)))


def _check(result: int) -> None:
    if result:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
