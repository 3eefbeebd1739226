"""The little world of the bundled demo model: its pictures, questions and training pieces."""
