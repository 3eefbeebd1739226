"""Logs, request ids, and the records of requests for metrics and traces.

Prompts, images and keys are never written.
"""
