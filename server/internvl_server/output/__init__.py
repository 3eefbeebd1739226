"""From token ids to what the client sees: text, tool calls, log probabilities."""
