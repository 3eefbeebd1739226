"""Encoded images and videos to RGB pixels; runs in worker processes only."""
