"""`internvl-server models`: the published models, and which of them this machine can serve."""

import argparse
import json

__all__ = ["HELP", "add_options", "run"]

HELP = "list the published models, and which of them fit this machine"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the form of the output."""
    parser.add_argument("--json", action="store_true", help="print JSON, sizes in bytes")


def run(options: argparse.Namespace) -> int:
    """Print the table."""
    from internvl_server.concurrency.memory import available_bytes
    from internvl_server.engine.turbomind.machine.driver import count_gpus, read_gpu
    from internvl_server.planner.catalogue import Machine, catalogue, render_catalogue

    gpus = [gpu for gpu in map(read_gpu, range(count_gpus())) if gpu is not None]
    machine = Machine([gpu.memory for gpu in gpus], available_bytes())
    facts = catalogue(machine)
    if not options.json:
        print(render_catalogue(facts, machine))
        return 0
    described = {
        "gpus": [
            {"total_bytes": gpu.memory.total_bytes, "free_bytes": gpu.memory.free_bytes}
            for gpu in gpus
        ],
        "memory_bytes": machine.memory_bytes,
    }
    print(json.dumps({"machine": described, "models": facts}, indent=2))
    return 0
