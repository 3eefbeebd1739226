"""Which system calls a confined process may make, as a program of the kernel's seccomp filter."""

import json
from contextlib import suppress
from errno import ENOSYS, EPERM

from seccompy import Action, CmpOp, Filter, SeccompError, syscall_nr

__all__ = ["rules_for"]

_CLONE_THREAD = 0x10000
_PROT_EXEC = 4
_PR_SET_NAME = 15

# To use the open descriptors and the memory, to wait, to ask for the time, and to end.
_ALLOWED = (
    *("read", "write", "close", "fstat", "lseek"),
    *("brk", "madvise", "mremap", "munmap"),
    *("futex", "membarrier", "rseq", "sched_getaffinity", "sched_yield", "set_robust_list"),
    *("clock_getres", "clock_gettime", "clock_nanosleep", "gettimeofday", "nanosleep", "setitimer"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall"),
    *("getpid", "getrandom", "getrusage", "gettid", "sysinfo"),
    *("exit", "exit_group"),
)


def rules_for(*, has_threads: bool) -> bytes:
    """What `confine` needs to know, in JSON.

    Args:
        has_threads: Whether the process may start threads. It can never start processes.
    """
    try:
        number, program = syscall_nr("seccomp"), _program(has_threads=has_threads)
    except SeccompError:  # not x86-64 or ARM
        number, program = 0, b""
    rules = {"seccomp": number, "program": program.hex(), "has_threads": has_threads}
    return json.dumps(rules).encode()


def _program(*, has_threads: bool) -> bytes:
    """The instructions of the filter.

    A call that is not allowed fails with EPERM, which libraries handle, instead of ending the process: a C
    library newer than this list must not make images unusable. Memory cannot be made executable, so that
    code can only be composed of what is loaded. Calls of another architecture end the process.
    """
    calls = Filter(default=Action.ERRNO | EPERM)
    for name in _ALLOWED:
        calls.allow(name)
    with suppress(ValueError):  # x86-64 only
        calls.allow("time")
    for name in ("mmap", "mprotect"):
        calls.allow(name, args=[(2, CmpOp.MASKED_EQ, 0, _PROT_EXEC)])
    calls.allow("prctl", args={0: _PR_SET_NAME})
    calls.allow("prlimit64", args={0: 0, 2: 0})  # its own limits, only to read
    if has_threads:
        calls.allow("clone", args=[(0, CmpOp.MASKED_EQ, _CLONE_THREAD, _CLONE_THREAD)])
        # Its flags are in memory, which a filter cannot read; the C library then calls `clone`.
        calls.errno("clone3", ENOSYS)
    return calls.program
