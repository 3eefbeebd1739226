"""The TurboMind engine: LMDeploy on NVIDIA GPUs."""
