"""The dialect of `/v1/completions`: request, response and chunks."""
