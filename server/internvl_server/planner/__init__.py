"""Whether a model fits given GPUs, computed from its config alone."""
