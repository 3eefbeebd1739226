"""The examination: questions about held-out scenes, and scores."""
