"""What code in a process that was taken over may try. Each attempt returns what it achieved, or raises."""

import ctypes
import errno
import mmap
import os
import platform
import resource
import socket
import subprocess
import threading
from collections.abc import Callable
from ctypes import c_long, c_void_p
from dataclasses import dataclass
from pathlib import Path

from seccompy.syscalls import syscall_nr

__all__ = ["ATTEMPTS", "REFUSED", "Target", "attempt"]

# What the kernel answers to a call that is not allowed, or that needs one descriptor more than is allowed.
REFUSED = {errno.EPERM, errno.EACCES, errno.EMFILE, errno.ENOSYS}
_PTRACE_SEIZE = 0x4206
_PROT_EXEC = 4
_libc = ctypes.CDLL(None, use_errno=True)
platform.uname()  # is cached; the attempts are about their own system calls


@dataclass(frozen=True)
class Target:
    """Whom and what the attempts are about.

    Attributes:
        server: Process id of the server.
        workers: Process ids of all workers.
        key: An API key in the server's environment.
        keys_file: A file with keys, which the server has read.
        folder: A folder that anyone can write to.
    """

    server: int
    workers: list[int]
    key: str
    keys_file: str
    folder: str

    @property
    def other(self) -> int:
        """Another worker."""
        return next(pid for pid in self.workers if pid != os.getpid())


def call(name: str, *arguments: int | c_void_p) -> int:
    """Make a system call."""
    result: int = _libc.syscall(c_long(syscall_nr(name)), *map(_word, arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def _word(argument: int | c_void_p) -> c_long | c_void_p:
    return c_long(argument) if isinstance(argument, int) else argument


def has_key(data: bytes, target: Target) -> bytes:
    """Data that has the key in it."""
    assert target.key.encode() in data
    return data


def read_memory(target: Target) -> int:
    """Read the server's memory through a system call."""
    address = 0
    maps = Path(f"/proc/{target.server}/maps")
    if os.access(maps, os.R_OK):
        address = int(maps.read_text().partition("-")[0], 16)
    here = ctypes.create_string_buffer(16)
    local = (c_void_p * 2)(ctypes.addressof(here), 16)
    remote = (c_void_p * 2)(address, 16)
    return call(
        "process_vm_readv", target.server, ctypes.cast(local, c_void_p), 1,
        ctypes.cast(remote, c_void_p), 1, 0,
    )  # fmt: skip


def attach(target: Target) -> None:
    """Attach a debugger to another worker."""
    call("ptrace", _PTRACE_SEIZE, target.other, 0, 0)


def take_descriptor(target: Target) -> int:
    """Copy a descriptor of the server."""
    return call("pidfd_getfd", call("pidfd_open", target.server, 0), 1, 0)


def fork(_: Target) -> int:
    """Start a process."""
    if pid := os.fork():
        os.waitpid(pid, 0)
        return pid
    os._exit(0)


def start_thread(_: Target) -> None:
    """Start a thread."""
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()


def connect(_: Target) -> None:
    """Connect to an address of this machine."""
    with socket.socket() as client, socket.create_server(("127.0.0.1", 0)) as server:
        client.connect(server.getsockname())


def open_socket(*kind: int) -> Callable[[Target], None]:
    """Open a socket."""
    return lambda _: socket.socket(*kind).close()


def read_proc(name: str) -> Callable[[Target], bytes]:
    """Read a file about the server."""
    return lambda target: Path(f"/proc/{target.server}/{name}").read_bytes()


def write_file(target: Target) -> int:
    """Write a file."""
    return Path(target.folder, f"written-{os.getpid()}").write_text("x")


def raise_limit(_: Target) -> int:
    """Raise the limit of open files."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    return os.open(os.devnull, os.O_RDONLY)


ATTEMPTS: dict[str, Callable[[Target], object]] = {
    "environment of the server": lambda target: has_key(read_proc("environ")(target), target),
    "command line of the server": read_proc("cmdline"),
    "map of the server's memory": read_proc("maps"),
    "memory of the server, as a file": lambda target: os.open(f"/proc/{target.server}/mem", 0),
    "descriptors of the server": lambda target: os.listdir(f"/proc/{target.server}/fd"),
    "memory of the server, by a call": read_memory,
    "debugger": attach,
    "descriptor of the server": take_descriptor,
    "file with keys": lambda target: has_key(Path(target.keys_file).read_bytes(), target),
    "folder": lambda _: os.listdir("/"),
    "file status": lambda target: os.stat(target.keys_file),
    "write a file": write_file,
    "write a file in memory": lambda _: os.memfd_create("x"),
    "delete a file": lambda target: os.unlink(target.keys_file + ".bak"),
    "socket": open_socket(),
    "IPv6 socket": open_socket(socket.AF_INET6),
    "UDP socket": open_socket(socket.AF_INET, socket.SOCK_DGRAM),
    "Unix socket": open_socket(socket.AF_UNIX),
    "netlink socket": open_socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "connection": connect,
    "pipe": lambda _: os.pipe(),
    "program": lambda _: subprocess.run(["/bin/true"], check=True),
    "process": fork,
    "thread": start_thread,
    "signal to the server": lambda target: os.kill(target.server, 0),
    "signal to a worker": lambda target: os.kill(target.other, 0),
    "limits of the server": lambda target: resource.prlimit(target.server, resource.RLIMIT_NOFILE),
    "priority of the server": lambda target: os.setpriority(os.PRIO_PROCESS, target.server, 0),
    "cores of the server": lambda target: os.sched_setaffinity(
        target.server, os.sched_getaffinity(0)
    ),
    "more open files": raise_limit,
    "memory with code": lambda _: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | _PROT_EXEC).close(),
    "namespace": lambda _: call("unshare", 0x20000000),
    "other root": lambda _: os.chroot("/"),
}


def attempt(name: str, target: Target) -> str:
    """Try one thing; says `done`, or the number of the system's error."""
    try:
        ATTEMPTS[name](target)
    except OSError as err:
        return f"refused {err.errno}"
    except (RuntimeError, ValueError) as err:  # Python's words for a thread and a limit
        is_refused = "start new thread" in str(err) or "raise maximum limit" in str(err)
        return f"refused {errno.EPERM}" if is_refused else repr(err)
    except Exception as err:  # noqa: BLE001  (it did not succeed, but was not refused)
        return repr(err)
    return "done"
