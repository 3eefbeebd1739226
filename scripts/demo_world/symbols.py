"""The code of visual tokens: one channel for each fact, the same ones that name it in words.

The vision tower is taught to write this code, so the language model can be taught to read it
without any picture. Of a tile's 64 tokens nine, near the middles of the places, say what lies
there and its number in reading order; all say how many items the tile shows.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import InternVLForConditionalGeneration

from .drawing import kind_index
from .modelling import ROPE_THETA, TOKENS_PER_TILE, WIDTH
from .scenes import COLOURS, PLACES, SHAPES, TRAINING_MAX_ITEMS, Item, Scene, sample_kinds

COLOUR, SHAPE, PLACE, RANK, COUNT, ITEM, EMPTY = 0, 8, 12, 21, 25, 31, 32
CODE_WIDTH = 33
# One of the counts: something tiny is there, and nothing else.
TINY_COUNT = 5
LOUDNESS = 0.5
# How often the count, and how often the numbers, of an invented picture are not to be trusted.
_MISCOUNTED = 0.4
# How many tiles of the details of a picture are invented at most.
_MANY_TILES = 12
_BANDS = (1, 4, 6)
# The token of every place.
PLACE_TOKENS = tuple(8 * row + column for row in _BANDS for column in _BANDS)
# The heads of the language model that are taught where to look, by layer.
READ_LAYER, WRITE_LAYER = 1, 2
LOOK_HEADS = {READ_LAYER: (0, 2), WRITE_LAYER: (0, 1, 2, 3)}
_NUMBER_WORDS = ("no", "one", "two", "three", "four", "tiny")


@dataclass(frozen=True)
class Picture:
    """What is on a picture, and its visual tokens.

    Attributes:
        scene: What can be asked about.
        features: (tiles, 64, width) in bfloat16; the last tile shows the whole picture.
    """

    scene: Scene
    features: Tensor

    @property
    def resolved(self) -> bool:
        """Whether there are detail tiles beside the whole picture."""
        return len(self.features) > 1


def tile_code(kinds: list[int], count: int) -> Tensor:
    """The code of one tile, (64, 33) of zeros and ones.

    Args:
        kinds: For every place, 1 + 8 * shape + colour of the item there, or 0.
        count: How many items the tile shows, or ``TINY_COUNT``.
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


def scene_code(scene: Scene) -> Tensor:
    """The code of a whole picture's tile."""
    if scene.tiny:
        return tile_code([0] * 9, TINY_COUNT)
    items = [scene.at(place) for place in range(len(PLACES))]
    return tile_code([kind_index(i) if i else 0 for i in items], len(scene.items))


def code_of_words(tokenizer: Tokenizer) -> dict[int, int]:
    """The channel of every token that is a word for what the channel says."""
    words = {c: COLOUR + n for n, c in enumerate(COLOURS)}
    words |= {s: SHAPE + n for n, s in enumerate(SHAPES)}
    words |= {f"{s}s": SHAPE + n for n, s in enumerate(SHAPES)}
    words |= {w: COUNT + n for n, w in enumerate(_NUMBER_WORDS)}
    found = {}
    for word, channel in words.items():
        for text in (word, f" {word}"):
            ids = tokenizer.encode(text).ids
            if len(ids) == 1:
                found[ids[0]] = channel
    return found


def _copy(attention: nn.Module, heads: tuple[int, ...], gain: float) -> None:
    """Let heads hand on the facts of what they look at, channel by channel."""
    width = attention.head_dim
    for head in heads:
        group = head // attention.num_key_value_groups
        eye = torch.eye(width)
        attention.v_proj.weight[group * width : (group + 1) * width, :width] = eye
        attention.o_proj.weight[:width, head * width : (head + 1) * width] += gain * eye


def _look_back(attention: nn.Module, head: int, strength: float) -> None:
    """Let a head look at the token before, by the fast channels of its positions."""
    width, group = attention.head_dim, head // attention.num_key_value_groups
    half = width // 2
    for pair in range(4):
        frequency = ROPE_THETA ** (-pair / half)
        attention.q_proj.bias[head * width + pair] = strength
        attention.k_proj.bias[group * width + pair] = strength * math.cos(frequency)
        attention.k_proj.bias[group * width + half + pair] = strength * math.sin(frequency)


def _match(attention: nn.Module, heads: tuple[int, ...], gain: float) -> None:
    """Let heads look for what has the same colour and shape, by the slow channels."""
    width = attention.head_dim
    slow = [i for i in range(width) if i % (width // 2) >= 6]
    for head in heads:
        group = head // attention.num_key_value_groups
        for channel in range(PLACE):
            attention.q_proj.weight[head * width + slow[channel], channel] += gain
            attention.k_proj.weight[group * width + slow[channel], channel] = gain


@torch.no_grad()
def start_language(model: InternVLForConditionalGeneration, tokenizer: Tokenizer) -> None:
    """Begin with what would take long to find: words share their channel with what shows the same.

    A head of the first layer hands on the word before, so "red circle" is one thing; two heads
    look for the like of it; heads that are taught where to look hand on what they see there.
    """
    rows = model.get_input_embeddings().weight
    rows[:, :CODE_WIDTH] = 0
    for token, channel in code_of_words(tokenizer).items():
        rows[token, channel] = LOUDNESS
    layers = model.model.language_model.layers
    _look_back(layers[0].self_attn, 0, 5.5)
    _copy(layers[0].self_attn, (0,), 0.15)
    for layer in (READ_LAYER, WRITE_LAYER):
        _copy(layers[layer].self_attn, LOOK_HEADS[layer], 0.2 / len(LOOK_HEADS[layer]))
    _match(layers[READ_LAYER].self_attn, LOOK_HEADS[READ_LAYER], 0.4)


def _kinds(rng: random.Random, count: int) -> list[Item]:
    places = sorted(rng.sample(range(len(PLACES)), count))
    kinds = sample_kinds(rng, count)
    pairs = zip(kinds, places, strict=True)
    return [Item(shape, colour, (0, 0, 0), 0, 0, 0, 0, at) for (colour, shape), at in pairs]


def invented_scene(rng: random.Random, *, tiny: bool = False) -> Scene:
    """A scene with no more than what questions need."""
    items = _kinds(rng, 1 if tiny else rng.randint(1, TRAINING_MAX_ITEMS))
    return Scene(0, 0, (0, 0, 0), tuple(items), tiny=tiny)


class InventedPictures:
    """Pictures that were never drawn: their visual tokens are the code, and some noise."""

    def __init__(self, seed: str) -> None:
        self._rng = random.Random(seed)
        self._noise = torch.Generator().manual_seed(self._rng.getrandbits(40))

    def _normal(self, *size: int) -> Tensor:
        return torch.randn(*size, generator=self._noise)

    def _blurred(self, code: Tensor, strength: float) -> Tensor:
        """Doubt: some tokens hold a part of another token's facts."""
        other = code[list(PLACE_TOKENS)][torch.randperm(9, generator=self._noise)]
        part = torch.rand(9, 1, generator=self._noise)
        part = strength * part * (torch.rand(9, 1, generator=self._noise) < 0.15)
        code = code.clone()
        facts = slice(0, PLACE)
        tokens = code[list(PLACE_TOKENS), facts]
        code[list(PLACE_TOKENS), facts] = (1 - part) * tokens + part * other[:, facts]
        return code

    def _miscounted(self, code: Tensor) -> Tensor:
        """A wrong or unsure count, and items with wrong or unsure numbers."""
        code = code.clone()
        for first, last in ((RANK, COUNT), (COUNT, ITEM)):
            if self._rng.random() < _MISCOUNTED:
                mass = code[:, first:last].sum(-1, keepdim=True)
                other = torch.zeros_like(code[:, first:last])
                width = last - first
                chosen = torch.randint(0, width, (len(code), 1), generator=self._noise)
                chosen = chosen if first == RANK else chosen[:1].expand(len(code), 1)
                other.scatter_(1, chosen, 1.0)
                part = self._rng.random()
                code[:, first:last] = (1 - part) * code[:, first:last] + part * mass * other
        return code

    def _tile(self, code: Tensor, *, wild: bool = False) -> Tensor:
        """Visual tokens of a code."""
        code = code if code[0, COUNT + TINY_COUNT] else self._miscounted(code)
        rough = self._rng.uniform(0.2, 0.5) if wild else self._rng.choice((0.02, 0.05, 0.08))
        loud = LOUDNESS * (self._rng.uniform(0.3, 1.2) if wild else self._rng.uniform(0.85, 1.1))
        tokens = rough * LOUDNESS * self._normal(TOKENS_PER_TILE, WIDTH)
        tokens += 0.5 * rough * LOUDNESS * self._normal(1, WIDTH)
        tokens[:, :CODE_WIDTH] += loud * self._blurred(code, 1.0 if wild else 0.4)
        return tokens.to(torch.bfloat16)

    def single(self) -> Picture:
        """A picture of one tile."""
        scene = invented_scene(self._rng)
        return Picture(scene, self._tile(scene_code(scene))[None])

    def _details(self, count: int) -> list[Tensor]:
        """Detail tiles of ordinary pictures: parts of items that may look like anything."""
        return [
            self._tile(scene_code(invented_scene(self._rng)), wild=self._rng.random() < 0.6)
            for _ in range(count)
        ]

    def several(self) -> Picture:
        """A picture of several tiles, only the last of which can be trusted."""
        count = self._rng.choice((2, 2, 2, 3, 4, 4, 4, self._rng.randint(5, _MANY_TILES)))
        whole = self.single()
        return Picture(whole.scene, torch.stack([*self._details(count), whole.features[0]]))

    def tiny(self) -> Picture:
        """A large picture of one tiny item, which one of the detail tiles shows."""
        rng = self._rng
        scene = invented_scene(rng, tiny=True)
        tiles = [self._tile(tile_code([0] * 9, 0)) for _ in range(rng.choice((4, 8, 9, 9, 12, 12)))]
        kinds = [0] * 9
        kinds[rng.randrange(9)] = kind_index(scene.items[0])
        tiles[rng.randrange(len(tiles))] = self._tile(tile_code(kinds, 1))
        return Picture(scene, torch.stack([*tiles, self._tile(scene_code(scene))]))

    def single_of(self, item: Item) -> Picture:
        """A picture of one tile that shows just this item."""
        scene = Scene(0, 0, (0, 0, 0), (item,))
        return Picture(scene, self._tile(scene_code(scene))[None])
