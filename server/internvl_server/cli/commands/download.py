"""`internvl-server download`: fetch a published model before it is served."""

import argparse
import re
import shlex
import signal
import sys
from pathlib import Path

from internvl_server.cli.settings import UsageError
from internvl_server.errors import StartupError
from internvl_server.planner.gpus import gib
from internvl_server.planner.models import MODELS, find_repository, why_unserved
from internvl_server.planner.support import check_served
from internvl_server.settings.loading import load_settings

__all__ = ["HELP", "add_options", "run"]

_ON_HUB = re.compile(r"(?![.-])[\w.-]+/(?![.-])[\w.-]+", re.ASCII)  # OWNER/REPOSITORY

HELP = "download a model from the Hugging Face hub, and check that it is complete"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare NAME, the folder and the revision."""
    parser.usage = "internvl-server download NAME [--to FOLDER] [--revision REVISION]"
    parser.add_argument(
        "NAME", help="a name that `models` lists, such as internvl3-2b, or OWNER/REPOSITORY"
    )
    parser.add_argument(
        "--to",
        type=Path,
        metavar="FOLDER",
        help="folder for the files; default: where `serve` looks (model.download_dir)",
    )
    parser.add_argument(
        "--revision", default="", help="branch, tag or commit; default: the default branch"
    )


def run(options: argparse.Namespace) -> int:
    """Download the model, and print its folder and the command that serves it.

    Raises:
        UsageError, StartupError: See `Command.run`.
    """
    repository = _repository(options.NAME)
    try:
        cache_dir = load_settings(None, {}).model.download_dir
    except ValueError as err:
        raise UsageError(str(err)) from err
    try:
        folder = _download(repository, options, cache_dir)
    except KeyboardInterrupt:
        print("\nFiles that are complete are kept: run the command again.", file=sys.stderr)
        return 128 + signal.SIGINT
    served = [str(folder)] if options.to else [repository]
    if options.revision and not options.to:
        served += ["--revision", options.revision]
    print(folder)
    print(shlex.join(["internvl-server", "serve", *served]))
    return 0


def _repository(name: str) -> str:
    """Owner and name of the repository.

    Raises:
        StartupError: The name is unknown, or the repository cannot be served.
    """
    if _ON_HUB.fullmatch(name):
        check_served(name)
        return name
    if name.startswith((".", "/", "~")):
        raise StartupError(
            f"{name!r} is a path. A folder is served without a download, by `internvl-server serve FOLDER`; "
            "--to names the folder for a download."
        )
    if found := find_repository(name):
        return f"OpenGVLab/{found}"
    known = ", ".join(name.lower().replace("_5-", ".5-") for name in MODELS)
    raise StartupError(
        why_unserved(name)
        or f"There is no model {name!r}. Write OWNER/REPOSITORY, or one of {known}."
    )


def _download(repository: str, options: argparse.Namespace, cache_dir: str) -> Path:
    from internvl_server.checkpoint.hub import Download, find_repository_files

    def begin(name: str, size: int) -> None:
        if not sys.stderr.isatty():  # there, the hub's library shows bars
            print(f"{name} ({gib(size)})", file=sys.stderr, flush=True)

    folder = None if options.to is None else options.to.expanduser()
    files = find_repository_files(repository, options.revision)
    download = Download(files, folder, cache_dir)
    download.check_room()
    return download.run(begin)
