"""Guided decoding for the engines: compile constraints into grammars and follow them token by token."""
