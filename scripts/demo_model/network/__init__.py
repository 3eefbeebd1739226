"""The demo model: architecture, initial weights, tokenizer and export."""
