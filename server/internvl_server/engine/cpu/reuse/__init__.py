"""What later requests can reuse: encoded images, and keys and values of prompts that begin alike."""
