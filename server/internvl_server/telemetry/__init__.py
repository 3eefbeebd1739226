"""Logs and request ids. Prompts, images and keys are never written."""
