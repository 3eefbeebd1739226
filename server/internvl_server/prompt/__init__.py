"""From a conversation to token ids: template, tokenizer, builder."""
