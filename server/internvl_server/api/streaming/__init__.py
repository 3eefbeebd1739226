"""Streams: the events of an answer, written to the client where its tokens arrive."""
