"""How the kernel is asked to filter system calls, on kernels that differ from this one."""

import ctypes
import errno
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from internvl_server.concurrency.confinement import process

TSYNC, SPEC_ALLOW = 1, 4


class Kernel:
    """Answers each call of seccomp with the next of some results; a negative one is an error number."""

    def __init__(self, *results: int) -> None:
        self._results = iter(results)
        self.flags: list[int] = []

    def syscall(self, _number: Any, _operation: Any, flags: Any, _program: Any) -> int:
        self.flags.append(flags.value)
        result = next(self._results)
        if result < 0:
            ctypes.set_errno(-result)
            return -1
        return result


@pytest.fixture(autouse=True)
def _stale_error() -> Iterator[None]:
    ctypes.set_errno(errno.ENOENT)  # of an earlier call
    yield
    ctypes.set_errno(0)


def outcome(monkeypatch: pytest.MonkeyPatch, kernel: Kernel) -> str:
    monkeypatch.setattr(process, "_libc", lambda: SimpleNamespace(syscall=kernel.syscall))
    try:
        process._filter_calls(317, b"\0" * 8)
    except OSError as err:
        return str(err.strerror)
    return ""


def test_a_kernel_that_knows_all_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(0)
    assert not outcome(monkeypatch, kernel)
    assert kernel.flags == [TSYNC | SPEC_ALLOW]


def test_an_old_kernel_filters_too(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(-errno.EINVAL, 0)
    assert not outcome(monkeypatch, kernel)
    assert kernel.flags == [TSYNC | SPEC_ALLOW, TSYNC]


def test_a_kernel_without_filters_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert outcome(monkeypatch, Kernel(-errno.EINVAL, -errno.EINVAL)) == "Invalid argument"
    assert outcome(monkeypatch, Kernel(-errno.ENOSYS)) == "Function not implemented"


def test_a_thread_that_is_not_filtered_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    assert outcome(monkeypatch, Kernel(4242)) == "the thread 4242 has another filter"
