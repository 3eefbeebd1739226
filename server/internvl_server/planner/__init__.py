"""Computes from a model's config alone whether it fits given GPUs."""
