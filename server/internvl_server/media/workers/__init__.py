"""The processes that decode images and videos."""
