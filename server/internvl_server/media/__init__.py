"""From the URL of an image or video to pixels: fetch, decode, tile, normalise."""
