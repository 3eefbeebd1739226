"""The phases that train the vision tower and the projector."""
