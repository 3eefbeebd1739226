"""Choosing the next token: filters, penalties and log probabilities."""
