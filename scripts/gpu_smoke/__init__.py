"""What `scripts/gpu-smoke` runs: a checkpoint on real GPUs, through the whole server."""
