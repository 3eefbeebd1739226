"""What the event loop may run, and how much may be in flight at once."""
