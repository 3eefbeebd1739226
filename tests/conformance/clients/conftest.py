"""Clients of others against a running server: `scripts/conformance clients`; otherwise left out."""

import os

collect_ignore_glob = [] if "CONFORMANCE_URL" in os.environ else ["*.py"]
