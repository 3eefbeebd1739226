"""Which of several servers a request goes to: one that knows its images and the start of its prompt."""
