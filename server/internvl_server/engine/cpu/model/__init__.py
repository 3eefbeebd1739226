"""InternVL in plain PyTorch: config, layers and weights."""
