"""Serves an app over HTTP: the process with its signals, and what a connection may send."""

from internvl_server.serve.run import serve

__all__ = ["serve"]
