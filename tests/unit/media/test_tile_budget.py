import pytest
from hypothesis import given
from hypothesis import strategies as st
from internvl_server.media.tile_budget import allocate_tiles
from internvl_server.media.tiling import count_tiles, select_grid

SIZES = st.tuples(st.integers(1, 4000), st.integers(1, 4000))
IMAGES = st.lists(st.tuples(st.integers(1, 40), SIZES), min_size=1, max_size=8)


def total(caps: tuple[int, ...], sizes: list[tuple[int, int]]) -> int:
    return sum(
        count_tiles(select_grid(*size, max_tiles=cap))
        for cap, size in zip(caps, sizes, strict=True)
    )


@given(IMAGES, st.integers(8, 100))
def test_caps_fit_and_are_no_lower_than_needed(
    images: list[tuple[int, tuple[int, int]]], budget: int
) -> None:
    requested = [cap for cap, _ in images]
    sizes = [size for _, size in images]
    caps = allocate_tiles(requested, sizes, budget)
    assert total(caps, sizes) <= budget
    assert all(1 <= cap <= most for cap, most in zip(caps, requested, strict=True))
    if list(caps) != requested:
        limit = max(caps)
        one_more = tuple(min(cap, limit + 1) for cap in requested)
        assert total(one_more, sizes) > budget
        assert caps == tuple(min(cap, limit) for cap in requested)


@given(SIZES)
def test_a_larger_cap_never_yields_fewer_tiles(size: tuple[int, int]) -> None:
    counts = [count_tiles(select_grid(*size, max_tiles=cap)) for cap in range(1, 41)]
    assert counts == sorted(counts)


@pytest.mark.parametrize(
    ("requested", "sizes", "budget", "caps"),
    [
        ([], [], 5, ()),
        ([12], [(448, 448)], 1, (12,)),
        ([12], [(1344, 448)], 1, (1,)),
        ([12], [(4480, 448)], 11, (12,)),
        ([12], [(4480, 448)], 10, (9,)),
        ([12, 12], [(1344, 448), (1344, 448)], 8, (12, 12)),
        ([12, 1], [(4480, 448), (448, 448)], 6, (4, 1)),
        ([12] * 8, [(1920, 1080)] * 8, 8, (1,) * 8),
    ],
)
def test_allocated_caps(
    requested: list[int], sizes: list[tuple[int, int]], budget: int, caps: tuple[int, ...]
) -> None:
    assert allocate_tiles(requested, sizes, budget) == caps
