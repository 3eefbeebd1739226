"""Memory is lent again when nothing refers to it any more, and not before."""

import numpy as np
import pytest
import torch
from internvl_server.media.workers.buffers import Buffers
from torch.utils.dlpack import from_dlpack

VALUES = np.arange(3 * 56 * 56, dtype=np.uint16).reshape(1, 3, 56, 56)


def address(values: np.ndarray) -> int:
    return values.__array_interface__["data"][0]


def test_a_copy_is_equal_and_independent() -> None:
    values = VALUES.copy()
    copied = Buffers().copy(values)
    assert (copied.dtype, copied.flags.c_contiguous) == (values.dtype, True)
    values[:] = 0
    assert np.array_equal(copied, VALUES)


def test_memory_returns_when_the_last_view_is_gone() -> None:
    buffers = Buffers()
    copied = buffers.copy(VALUES)
    place, view = address(copied), copied[:, 1:]
    del copied
    other = buffers.copy(VALUES)
    assert address(other) != place
    del view
    assert address(buffers.copy(VALUES)) == place


@pytest.mark.parametrize("share", ["tensor", "dlpack"])
def test_a_tensor_keeps_the_memory(share: str) -> None:
    buffers = Buffers()
    copied = buffers.copy(VALUES)
    tensor = torch.from_numpy(copied).view(torch.bfloat16)
    if share == "dlpack":
        tensor = from_dlpack(tensor)
    place = address(copied)
    del copied
    others = [buffers.copy(np.zeros_like(VALUES)) for _ in range(4)]
    assert place not in map(address, others)
    assert torch.equal(tensor.view(torch.uint16), torch.from_numpy(VALUES))
    del tensor
    assert address(buffers.copy(VALUES)) == place


def test_a_smaller_copy_shows_nothing_of_the_rest() -> None:
    buffers = Buffers()
    del_me = buffers.copy(np.full(1_000_000, 7, np.uint16))
    place = address(del_me)
    del del_me
    copied = buffers.copy(np.zeros(900_000, np.uint16))
    assert address(copied) == place
    assert len(memoryview(copied.base).cast("B")) == copied.nbytes
    assert address(buffers.copy(np.zeros(100_000, np.uint16))) != place


def test_idle_memory_is_bounded() -> None:
    buffers = Buffers()
    lent = [buffers.copy(np.zeros(8 << 20, np.uint16)) for _ in range(20)]
    del lent
    assert sum(len(memory) for _, memory in buffers._idle) <= 256 << 20
    assert len(buffers._idle) == 16


def test_memory_that_is_not_used_is_given_back() -> None:
    buffers = Buffers()
    lent = [buffers.copy(VALUES) for _ in range(3)]
    del lent
    buffers.release(60)
    assert len(buffers._idle) == 3
    kept = buffers.copy(VALUES)
    buffers.release(0)
    assert not buffers._idle
    assert np.array_equal(kept, VALUES)


def test_of_several_the_one_that_was_used_last_is_lent() -> None:
    """The others are then found to be more than is needed."""
    buffers = Buffers()
    first, second = buffers.copy(VALUES), buffers.copy(VALUES)
    place = address(second)
    del first
    del second
    assert address(buffers.copy(VALUES)) == place
