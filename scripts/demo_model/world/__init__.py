"""The demo world: scenes of coloured shapes, their images, and questions about them."""
