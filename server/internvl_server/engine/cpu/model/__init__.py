"""InternVL3 in plain PyTorch: config, layers and weights."""
