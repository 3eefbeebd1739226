"""Encoded images and videos to RGB pixels. Runs in worker processes only."""
