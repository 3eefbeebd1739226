"""The phases that train the language model."""
