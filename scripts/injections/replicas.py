"""Two replicas behind HAProxy or nginx, with the configuration that is shipped."""

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scripts.injections.stage import Stage
from scripts.load.servers import ServerProcess, free_port
from scripts.load.streams import Address

__all__ = ["Balanced", "balanced", "command", "find", "local_config"]

_CONFIGS = Path(__file__).parents[2] / "configs"


@dataclass
class Balanced:
    """The balancer's address, and the servers behind it."""

    address: Address
    replicas: list[ServerProcess]
    balancer: "subprocess.Popen[bytes]"


def find(name: str) -> str | None:
    """The program of a balancer."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin")


def local_config(name: str, port: int, replicas: list[int], folder: Path) -> str:
    """The shipped file with addresses of this machine, and answers that name their server."""
    text = (_CONFIGS / {"haproxy": "haproxy.cfg", "nginx": "nginx.conf"}[name]).read_text("utf-8")

    def local(match: re.Match[str]) -> str:
        return f"{match[1]}127.0.0.1:{replicas[int(match[2]) - 1]}"

    if name == "haproxy":
        named = f"bind 127.0.0.1:{port}\n    http-response set-header x-replica %s"
        text, binds = re.subn(r"bind :8080", named, text)
        text = text.replace(" resolvers system init-addr libc,none", "")
        text = text.replace("affinity.lua", str(_CONFIGS / "affinity.lua"))
        text, servers = re.subn(r"(server replica-\d )replica-(\d):8000", local, text)
    else:
        named = f"listen 127.0.0.1:{port};\n        add_header x-replica $upstream_addr always"
        text, binds = re.subn(r"listen 8080", named, text)
        text = text.replace("/run/nginx.pid", f"{folder}/nginx.pid")
        text, servers = re.subn(r"(server )replica-(\d):8000", local, text)
    assert (binds, servers) == (1, 2)
    return text


def command(name: str, config: Path) -> list[str]:
    """The command that runs a balancer in the foreground."""
    program = find(name)
    assert program is not None, f"{name} is not installed"
    if name == "haproxy":
        return [program, "-db", "-f", str(config)]
    return [program, "-p", str(config.parent), "-c", str(config), "-g", "daemon off;"]


@contextlib.contextmanager
def balanced(stage: Stage, name: str, **settings: object) -> Iterator[Balanced]:
    """Two servers and their balancer; wait for the servers before using it."""
    with contextlib.ExitStack() as stack:
        replicas = [stack.enter_context(stage.server(**settings)) for _ in range(2)]
        port, folder = free_port(), stage.folder
        config = folder / f"{name}.conf"
        config.write_text(local_config(name, port, [r.port for r in replicas], folder))
        log = stack.enter_context((folder / f"{name}.log").open("ab"))
        process = subprocess.Popen(command(name, config), stdout=log, stderr=log)
        stack.callback(_end, process)
        yield Balanced(Address(port), replicas, process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.wait(10)
