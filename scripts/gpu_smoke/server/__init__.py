"""Checks of the whole server over HTTP, in a process that never touches the GPU."""
