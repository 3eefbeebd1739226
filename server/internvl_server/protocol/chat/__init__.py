"""The dialect of `/v1/chat/completions`: request, messages, response and chunks."""
