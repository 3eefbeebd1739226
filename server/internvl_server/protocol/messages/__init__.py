"""The dialect of Anthropic's `/v1/messages`: request, content blocks, message and events."""
