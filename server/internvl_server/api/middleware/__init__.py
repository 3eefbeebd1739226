"""ASGI middleware: the request id and access log, and the check of keys."""
