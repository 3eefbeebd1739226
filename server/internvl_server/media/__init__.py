"""From an image reference to tiles: address policy, fetch, decode, tiling, pixels."""
