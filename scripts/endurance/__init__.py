"""Trials of a server under load: `scripts/soak` looks for what grows, `scripts/overload` for what breaks."""
