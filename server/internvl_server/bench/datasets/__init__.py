"""What is sent: synthetic prompts of exact lengths, files of conversations, pictures and videos."""
