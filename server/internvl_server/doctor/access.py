"""The socket and the keys: whether the server can listen, and who may use it."""

import socket
import stat
from collections.abc import Iterator

from internvl_server.doctor.finding import Check, Finding, error, ok, warning
from internvl_server.doctor.subject import Subject
from internvl_server.settings.keys import read_keys

__all__ = ["CHECKS"]


def port(subject: Subject) -> Iterator[Finding]:
    """Whether the server can listen on its port."""
    server = subject.settings.server
    yield _bound(server.host, server.port, "--port")


def metrics_port(subject: Subject) -> Iterator[Finding]:
    """Whether metrics can have a separate port, if they are to."""
    server = subject.settings.server
    if not (server.metrics and server.metrics_port):
        return
    if server.metrics_port == server.port:
        yield error(
            f"server.metrics_port is {server.port}, as server.port is.", "Choose another one."
        )
    else:
        yield _bound(server.metrics_host, server.metrics_port, "server.metrics_port")


def exposure(subject: Subject) -> Iterator[Finding]:
    """Whether others may reach the server without a key."""
    server = subject.settings.server
    if problem := server.exposure_problem():
        first, _, rest = problem.partition(". ")
        yield error(f"{first}.", rest)
    elif server.allow_anonymous:
        yield warning(
            f"Whoever reaches {server.host} can use the server without a key.",
            "Make sure that a proxy in front of it authenticates.",
        )


def keys_file(subject: Subject) -> Iterator[Finding]:
    """Whether the file of keys can be read, and by the server alone."""
    path = subject.settings.server.keys_file
    if path is None:
        return
    try:
        keys = read_keys(path)
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as err:
        yield error(
            f"server.keys_file {path} cannot be read: {err.strerror}.",
            "Create it with `internvl-server keys NAME`, or let the server's user read it.",
        )
    except ValueError as err:
        yield error(f"server.keys_file {path}: {err}.", "Correct the line.")
    else:
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            yield warning(
                f"Every user of this machine can read or write {path}.", f"chmod 600 {path}"
            )
        else:
            yield ok(f"{len(keys)} key(s) in {path}.")


def _bound(host: str, number: int, option: str) -> Finding:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, number))
    except OSError as err:
        return error(
            f"{host}:{number} cannot be listened on: {err.strerror}.",
            f"End the program that uses it, or choose another address with --host and {option}.",
        )
    return ok(f"{host}:{number} is free." if number else "The system chooses a free port.")


CHECKS: tuple[Check, ...] = (port, metrics_port, exposure, keys_file)
