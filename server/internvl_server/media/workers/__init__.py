"""Processes that decode images and videos."""
