"""Initial weights of the language model that use the code of visual tokens.

Words share the channel of the fact that they name. A head of the first layer copies the previous
word, so that "red circle" becomes one vector; two heads search for visual tokens of the same
colour and shape; the supervised heads copy the facts of the tokens that they attend to. All of
this would take long to learn.
"""

from __future__ import annotations

import math

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import InternVLForConditionalGeneration

from scripts.demo_model.network.architecture import (
    READ_LAYER,
    ROPE_THETA,
    SUPERVISED_HEADS,
    WRITE_LAYER,
)
from scripts.demo_model.network.visual_code import (
    AMPLITUDE,
    CODE_WIDTH,
    COLOUR,
    COUNT,
    PLACE,
    SHAPE,
)
from scripts.demo_model.world.colours import COLOURS
from scripts.demo_model.world.scene import SHAPES

_NUMBER_WORDS = ("no", "one", "two", "three", "four", "tiny")
# Channel pairs of a head whose rotary angle changes with every token, and those, from this one
# on, whose angle is nearly constant.
_FAST_PAIRS, _FIRST_SLOW_PAIR = 4, 6


@torch.no_grad()
def start_language(model: InternVLForConditionalGeneration, tokenizer: Tokenizer) -> None:
    """Initialise the embeddings of words, and the heads that copy and search."""
    rows = model.get_input_embeddings().weight
    rows[:, :CODE_WIDTH] = 0
    for token, channel in word_channels(tokenizer).items():
        rows[token, channel] = AMPLITUDE
    layers = model.model.language_model.layers
    _attend_to_previous(layers[0].self_attn, 0, 5.5)
    _copy_facts(layers[0].self_attn, (0,), 0.15)
    for layer in (READ_LAYER, WRITE_LAYER):
        heads = SUPERVISED_HEADS[layer]
        _copy_facts(layers[layer].self_attn, heads, 0.2 / len(heads))
    _search_same_facts(layers[READ_LAYER].self_attn, SUPERVISED_HEADS[READ_LAYER], 0.4)


def word_channels(tokenizer: Tokenizer) -> dict[int, int]:
    """Return the channel of every token id that names a colour, a shape or a number."""
    words = {word: COLOUR + n for n, word in enumerate(COLOURS)}
    words |= {word: SHAPE + n for n, word in enumerate(SHAPES)}
    words |= {f"{word}s": SHAPE + n for n, word in enumerate(SHAPES)}
    words |= {word: COUNT + n for n, word in enumerate(_NUMBER_WORDS)}
    found = {}
    for word, channel in words.items():
        for text in (word, f" {word}"):
            ids = tokenizer.encode(text).ids
            if len(ids) == 1:
                found[ids[0]] = channel
    return found


def _copy_facts(attention: nn.Module, heads: tuple[int, ...], gain: float) -> None:
    """Let heads copy the first channels of the attended token."""
    width = attention.head_dim
    for head in heads:
        group = head // attention.num_key_value_groups
        eye = torch.eye(width)
        attention.v_proj.weight[group * width : (group + 1) * width, :width] = eye
        attention.o_proj.weight[:width, head * width : (head + 1) * width] += gain * eye


def _attend_to_previous(attention: nn.Module, head: int, strength: float) -> None:
    """Let a head attend to the previous token through its fast rotary channels."""
    width, group = attention.head_dim, head // attention.num_key_value_groups
    half = width // 2
    for pair in range(_FAST_PAIRS):
        frequency = ROPE_THETA ** (-pair / half)
        attention.q_proj.bias[head * width + pair] = strength
        attention.k_proj.bias[group * width + pair] = strength * math.cos(frequency)
        attention.k_proj.bias[group * width + half + pair] = strength * math.sin(frequency)


def _search_same_facts(attention: nn.Module, heads: tuple[int, ...], gain: float) -> None:
    """Let heads attend to tokens of the same colour and shape through their slow channels."""
    width = attention.head_dim
    slow = [i for i in range(width) if i % (width // 2) >= _FIRST_SLOW_PAIR]
    for head in heads:
        group = head // attention.num_key_value_groups
        for channel in range(PLACE):
            attention.q_proj.weight[head * width + slow[channel], channel] += gain
            attention.k_proj.weight[group * width + slow[channel], channel] = gain
