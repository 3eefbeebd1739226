"""Which frames of a video are sampled.

Source of the algorithm: `get_index` in the model cards of InternVL2, 2.5 and 3 (OpenGVLab), called
without a bound. tests/unit/media/decoding/test_frame_sampling.py compares it with that formula.
"""

__all__ = ["sample_frames"]


def sample_frames(num_frames_in_video: int, num_frames: int) -> tuple[int, ...]:
    """The indices of the frames in the middle of `num_frames` equal segments.

    For a video with fewer frames, indices repeat as in the reference.

    Args:
        num_frames_in_video: At least 1.
        num_frames: How many to sample, at least 1.

    Returns:
        Indices in [0, num_frames_in_video), not descending.
    """
    segment = float(num_frames_in_video - 1) / num_frames
    # round() rounds half to even, as numpy does; int() truncates, as the reference does.
    return tuple(int(segment / 2 + round(segment * index)) for index in range(num_frames))
