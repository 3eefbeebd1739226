"""How many examples a fuzz target gets: a few with each commit, many in the night (`FUZZ=nightly`)."""

import os

from hypothesis import HealthCheck, settings

IS_NIGHTLY = os.environ.get("FUZZ") == "nightly"


def budget(per_commit: int, nightly: int) -> settings:
    return settings(
        max_examples=nightly if IS_NIGHTLY else per_commit,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
