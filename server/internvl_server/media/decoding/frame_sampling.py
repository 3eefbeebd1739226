"""Which frames of a video are looked at.

Source of the algorithm: `get_index` in the model cards of InternVL2, 2.5 and 3 (OpenGVLab), called
without a bound. tests/unit/media/test_media_frame_choice.py holds it against that formula.
"""

__all__ = ["choose_frames"]


def choose_frames(num_frames_in_video: int, num_frames: int) -> tuple[int, ...]:
    """The indices of the frames in the middle of as many equal segments.

    In a video of fewer frames than are asked for, indices repeat, as the reference's do.

    Args:
        num_frames_in_video: At least 1.
        num_frames: How many are looked at, at least 1.

    Returns:
        Indices in [0, num_frames_in_video), not descending.
    """
    segment = float(num_frames_in_video - 1) / num_frames
    # round() is half to even, as numpy's; int() cuts, as the reference's.
    return tuple(int(segment / 2 + round(segment * index)) for index in range(num_frames))
