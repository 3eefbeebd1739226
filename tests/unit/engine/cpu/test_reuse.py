"""What is kept of ended requests, and what a prompt has in common with it."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from internvl_server.checkpoint.config import TextConfig
from internvl_server.core import ImageSpan
from internvl_server.engine.cpu.model.kv_cache import KvCache
from internvl_server.engine.cpu.reuse.features import FeatureCache
from internvl_server.engine.cpu.reuse.prefixes import Prefix, PrefixCache

CONFIG = TextConfig(
    family="qwen2", vocab_size=9, hidden_size=4, intermediate_size=4, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=1,
)  # fmt: skip
IMAGE = 7  # the id of image tokens


def ids(*values):
    return np.array(values, dtype=np.int64)


def prefix(*values, images=(), room=None):
    return Prefix(ids(*values), images, KvCache(CONFIG, room or len(values), torch.float32))


def span(offset, number, size=2):
    return ImageSpan(offset, 1, size, bytes([number]))


@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(0, 2), max_size=6))
def test_the_common_tokens_are_those_before_the_first_difference(one, other):
    expected = 0
    while expected < min(len(one), len(other)) and one[expected] == other[expected]:
        expected += 1
    assert prefix(*one, room=1).num_common(ids(*other), ()) == expected


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ((span(1, 1), span(4, 2)), 7),
        ((span(1, 1), span(4, 3)), 4),  # another picture of the same size
        ((span(1, 3), span(4, 2)), 1),
        ((span(1, 1), span(4, 2, size=1)), 4),  # a smaller picture, then an image token of another
        ((span(1, 1),), 4),
        ((), 1),
        ((span(1, 1), span(4, 2), span(9, 3)), 7),
    ],
)
def test_images_are_compared_by_what_they_show(images, expected):
    tokens = (1, IMAGE, IMAGE, 2, IMAGE, IMAGE, 3)
    known = prefix(*tokens, images=(span(1, 1), span(4, 2)))
    assert known.num_common(ids(*tokens, 5, 5), images) == expected


def test_the_longest_beginning_is_found_and_becomes_the_newest():
    cache = PrefixCache()
    entries = [prefix(1, 2, 3, 4), prefix(1, 2, 9), prefix(5)]
    for entry in entries:
        cache.add(entry)
    assert cache.find(ids(1, 2, 3, 8), ()) == (entries[0], 3)
    assert cache.find(ids(6), ()) is None
    cache.shrink(5)
    assert cache.find(ids(1, 2, 9), ()) == (entries[0], 2)
    assert cache.num_tokens == 5


def test_what_another_entry_contains_is_not_kept():
    cache = PrefixCache()
    cache.add(prefix(1, 2))
    cache.add(prefix(3))
    longer = prefix(1, 2, 3)
    cache.add(longer)
    assert cache.num_tokens == 4
    cache.add(prefix(1, 2))
    assert cache.num_tokens == 4
    assert cache.find(ids(1, 2), ()) == (longer, 2)


def test_memory_counts_and_not_tokens():
    cache = PrefixCache()
    cache.add(prefix(1, 2, room=10))
    assert cache.num_tokens == 10
    cache.shrink(9)
    assert cache.num_tokens == 0


def test_the_number_of_entries_is_bounded():
    cache = PrefixCache()
    for number in range(300):
        cache.add(prefix(number, 0))
    assert cache.num_tokens == 256
    assert cache.find(ids(0), ()) is None
    assert cache.find(ids(299), ()) is not None


@pytest.mark.parametrize("is_last_use", [False, True])
def test_keys_and_values_are_copied_or_moved(is_last_use):
    known = KvCache(CONFIG, 4, torch.float32)
    for layer in range(2):
        known.extend(layer, 0, torch.full((2, 1, 4, 2), float(layer + 1)))
    new = KvCache(CONFIG, 9, torch.float32)
    new.take(known, 3, is_last_use=is_last_use)
    for layer in range(2):
        keys, values = new.extend(layer, 3, torch.zeros(2, 1, 1, 2))
        assert keys[0, :, 0].tolist() == [layer + 1.0] * 3 + [0.0]
        assert torch.equal(keys, values)
    assert sum(store.numel() for store in known._layers) == (0 if is_last_use else 2 * 16)


def test_features_are_kept_by_use_and_bytes():
    cache = FeatureCache(99)
    a, b, c = torch.zeros(10), torch.ones(10), torch.ones(5)
    cache.add(b"a", a)
    cache.add(b"b", b)
    assert cache.get(b"a") is a
    cache.add(b"c", c)
    assert cache.get(b"a") is a
    assert cache.get(b"b") is None
    assert cache.get(b"c") is c
    assert cache.num_bytes == 60
    cache.add(b"large", torch.zeros(26))
    assert cache.get(b"large") is None
    assert cache.num_bytes == 60


def test_no_features_are_kept_without_memory():
    cache = FeatureCache(0)
    cache.add(b"a", torch.zeros(1))
    assert cache.get(b"a") is None


def test_spans_are_equal_only_with_equal_fingerprints():
    assert span(1, 1) != dataclasses.replace(span(1, 1), fingerprint=b"2")
