import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from internvl_server.media.decoding.frame_sampling import sample_frames


def published(max_frame: int, num_segments: int, fps: float) -> list[int]:
    """The formula of InternVL's model card, with its bounds for a whole video."""
    start_idx = max(0, round(-100000 * fps))
    end_idx = min(round(100000 * fps), max_frame)
    seg_size = float(end_idx - start_idx) / num_segments
    steps = [start_idx + seg_size / 2 + np.round(seg_size * i) for i in range(num_segments)]
    return [int(step) for step in steps]


@given(st.integers(1, 200_000), st.integers(1, 64), st.floats(2, 240))
def test_frames_are_those_of_the_published_formula(num: int, segments: int, fps: float) -> None:
    chosen = sample_frames(num, segments)
    assert list(chosen) == published(num - 1, segments, fps)
    assert list(chosen) == sorted(chosen)
    assert all(0 <= index < num for index in chosen)


def test_halves_are_rounded_to_even_as_numpy_does() -> None:
    assert sample_frames(5, 8) == (0, 0, 1, 2, 2, 2, 3, 4)
    assert [int(0.25 + np.round(0.5 * i)) for i in range(8)] == [0, 0, 1, 2, 2, 2, 3, 4]


def test_a_short_video_repeats_frames() -> None:
    assert sample_frames(1, 4) == (0, 0, 0, 0)
    assert sample_frames(3, 8) == (0, 0, 0, 1, 1, 1, 2, 2)
