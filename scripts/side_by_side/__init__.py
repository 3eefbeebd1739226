"""What `scripts/bench` runs: our server beside LMDeploy's own, on the same stand-in for the GPU."""
