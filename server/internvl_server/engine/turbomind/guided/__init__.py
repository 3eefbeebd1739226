"""Constraints in the form that TurboMind's grammar compiler takes."""
