"""The training phases of the demo model."""
