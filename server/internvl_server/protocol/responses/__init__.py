"""The dialect of `/v1/responses`: request, items, response and events."""
