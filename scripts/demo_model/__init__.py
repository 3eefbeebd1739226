"""How the bundled demo model was made, and how it is examined."""
