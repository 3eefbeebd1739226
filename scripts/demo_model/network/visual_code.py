"""The code that visual tokens carry: one channel for each fact.

The vision tower is trained to write this code, so the language model can be trained to read it
without images. Nine of a tile's 64 tokens, one near the middle of each place, carry colour,
shape, place and rank (the number in reading order) of the item there. Every token carries the
number of items that the tile shows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scripts.demo_model.network.architecture import TOKENS_PER_TILE
from scripts.demo_model.world.colours import COLOURS
from scripts.demo_model.world.labels import kind_index
from scripts.demo_model.world.scene import PLACES, SHAPES, Scene

# First channels of the groups.
COLOUR, SHAPE, PLACE, RANK, COUNT, ITEM, EMPTY = 0, 8, 12, 21, 25, 31, 32
CODE_WIDTH = 33
NUM_RANKS = COUNT - RANK
NUM_COUNTS = ITEM - COUNT
COLOUR_CHANNELS = slice(COLOUR, COLOUR + len(COLOURS))
SHAPE_CHANNELS = slice(SHAPE, SHAPE + len(SHAPES))
RANK_CHANNELS = slice(RANK, COUNT)
COUNT_CHANNELS = slice(COUNT, ITEM)
# The count that means: one tiny item, and nothing else.
TINY_COUNT = 5
# The value of a channel that is set, in the model's visual tokens.
AMPLITUDE = 0.5
_BANDS = (1, 4, 6)
# The token of every place.
PLACE_TOKENS = tuple(8 * row + column for row in _BANDS for column in _BANDS)


def tile_code(kinds: list[int], count: int) -> Tensor:
    """Return the code of one tile, (64, 33) of zeros and ones.

    Args:
        kinds: The kind of the item at every place, 0 for none.
        count: The number of items that the tile shows, or ``TINY_COUNT``.
    """
    code = torch.zeros(TOKENS_PER_TILE, CODE_WIDTH)
    code[:, COUNT + count] = 1
    rank = 0
    for place, kind in enumerate(kinds):
        token = code[PLACE_TOKENS[place]]
        token[PLACE + place] = 1
        token[ITEM if kind else EMPTY] = 1
        if kind:
            shape, colour = divmod(kind - 1, len(COLOURS))
            token[[COLOUR + colour, SHAPE + shape, RANK + rank]] = 1
            rank += 1
    return code


def empty_code() -> Tensor:
    """Return the code of a tile without items."""
    return tile_code([0] * len(PLACES), 0)


def thumbnail_code(scene: Scene) -> Tensor:
    """Return the code of the tile that shows the whole image."""
    kinds, count = thumbnail_kinds(scene)
    return tile_code(kinds, count)


def thumbnail_kinds(scene: Scene) -> tuple[list[int], int]:
    """Return the kind at every place of the whole image, and the count; see ``tile_code``."""
    if scene.tiny:
        return [0] * len(PLACES), TINY_COUNT
    return [kind_index(scene.at(place)) for place in range(len(PLACES))], len(scene.items)


def decode_items(code: Tensor) -> list[tuple[str, str, int]]:
    """Return colour, shape and place of every item in a tile's code."""
    items = []
    for place, index in enumerate(PLACE_TOKENS):
        token = code[index]
        if token[ITEM]:
            colour = COLOURS[int(token[COLOUR_CHANNELS].argmax())]
            items.append((colour, SHAPES[int(token[SHAPE_CHANNELS].argmax())], place))
    return items
