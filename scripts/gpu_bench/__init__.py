"""What `scripts/gpu-bench` runs: our server, LMDeploy's own, and its raw pipeline, on the same GPU."""
