"""Runs in an environment with LMDeploy only: scripts/test-lmdeploy. Elsewhere this folder is left out."""

import importlib.util

HAS_LMDEPLOY = importlib.util.find_spec("lmdeploy") is not None
collect_ignore_glob = [] if HAS_LMDEPLOY else ["*.py"]

if HAS_LMDEPLOY:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what third parties warn about while they are imported
        from tests.lmdeploy.fixtures import *  # noqa: F403
