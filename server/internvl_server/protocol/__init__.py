"""The API dialects: parses and validates requests, and writes answers and errors. It does no I/O."""
