"""What the commands print of others' text."""

__all__ = ["without_controls"]

_CONTROLS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def without_controls(text: str) -> str:
    """A text without the characters by which it could control a terminal."""
    return text.translate(_CONTROLS)
