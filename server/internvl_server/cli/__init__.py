"""The command line of `internvl-server`."""

from internvl_server.cli.main import run_command as main

__all__ = ["main"]
