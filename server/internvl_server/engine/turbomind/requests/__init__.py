"""Requests that run in TurboMind: their order, their handles, their tokens on the way to the event loop."""
