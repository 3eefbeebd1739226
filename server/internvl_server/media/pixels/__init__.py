"""From upright RGB images to tiles as the vision encoder takes them."""
