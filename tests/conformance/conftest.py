"""Suites of others against a running server: scripts/conformance. Elsewhere this folder is left out."""

import importlib.util
import os

HAS_SUITES = importlib.util.find_spec("langchain_tests") is not None
collect_ignore_glob = [] if HAS_SUITES and "CONFORMANCE_URL" in os.environ else ["test_*.py"]
