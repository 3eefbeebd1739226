"""Runs a module on stand-ins for the NVIDIA driver, the weights and TurboMind's native loop.

LMDeploy's Python and native objects are the real ones, so this needs its environment (`scripts/lmdeploy-env`)
with the stub driver's folder in LD_LIBRARY_PATH. The stand-ins are those of the contract tests.
"""
