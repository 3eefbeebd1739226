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


@given(IMAGES, st.integers(8, 100), st.integers(1, 8))
def test_earlier_images_give_way_before_the_newest(
    images: list[tuple[int, tuple[int, int]]], budget: int, num_earlier: int
) -> None:
    num_earlier = min(num_earlier, len(images))
    requested = [cap for cap, _ in images]
    sizes = [size for _, size in images]
    caps = allocate_tiles(requested, sizes, budget, num_earlier=num_earlier)
    assert total(caps, sizes) <= budget
    if total(tuple(requested), sizes) <= budget:
        assert total(caps, sizes) == total(tuple(requested), sizes)
    elif total(caps[num_earlier:], sizes[num_earlier:]) < total(
        tuple(requested[num_earlier:]), sizes[num_earlier:]
    ):
        assert set(caps[:num_earlier]) == {1}


def test_a_conversation_shrinks_its_earlier_images_in_few_steps() -> None:
    """40 turns with one image of 9 tiles each; a cached prompt is lost only where the counts change."""
    sizes = [(1920, 1080)] * 40
    turns = [
        [
            count_tiles(select_grid(1920, 1080, max_tiles=cap))
            for cap in allocate_tiles([12] * num, sizes[:num], 64, num_earlier=num - 1)
        ]
        for num in range(1, 41)
    ]
    assert [turn[-1] for turn in turns] == [9] * 40
    assert [turn[0] for turn in turns] == [9] * 7 + [3] * 12 + [1] * 21
    assert all(len(set(turn[:-1])) <= 1 for turn in turns)


@given(SIZES)
def test_a_larger_cap_never_yields_fewer_tiles(size: tuple[int, int]) -> None:
    counts = [count_tiles(select_grid(*size, max_tiles=cap)) for cap in range(1, 41)]
    assert counts == sorted(counts)


@pytest.mark.parametrize(
    ("requested", "sizes", "budget", "caps"),
    [
        ([], [], 5, ()),
        ([12], [(448, 448)], 1, (1,)),
        ([12], [(448, 448)], 2, (12,)),
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
