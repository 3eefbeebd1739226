"""Guided decoding for the engines: compile constraints into grammars and follow them token by token."""

__all__ = ["CHECKER"]

CHECKER = "internvl_server.engine.guided.checker"
"""The program that compares finished answers with schemas, for `JobProcesses`."""
