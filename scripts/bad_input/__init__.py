"""A corpus of bad requests against a real server: what it answers, whom it calls, what that costs."""
