"""An OpenAI-compatible server for InternVL3."""

__version__ = "0.1.0"
