"""Looks into a running server: what it holds that no answer shows."""
