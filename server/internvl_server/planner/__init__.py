"""Computes whether a model fits given GPUs, from the config of the model."""
