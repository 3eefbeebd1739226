"""What shapes answers, checked at start: the grids, the normalisation and the prompt must be the reference's.

Wrong tiles or a wrong prompt give plausible, worse answers, and nobody notices. So a few stored values are
computed anew each time the server starts, and it does not start when one differs. The hashes of what was
checked, and of the tokenizer, are shown by `/version` and make up the `system_fingerprint`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from internvl_server.core import (
    Conversation,
    Detail,
    ImageReference,
    ImageTiles,
    Message,
    TextPart,
    Tool,
    ToolCall,
)
from internvl_server.errors import InvalidRequestError, StartupError
from internvl_server.media.pixels import to_pixel_values
from internvl_server.media.tiling import select_grid
from internvl_server.prompt.segments import Control, Segment
from internvl_server.prompt.template import Template
from internvl_server.prompt.tokenizer import PromptTokenizer

__all__ = ["GOLDEN_GRIDS", "SelfCheck", "fingerprint_of", "run_self_check"]

# (width, height, most tiles) → (columns, rows), of the published `dynamic_preprocess`: extreme shapes,
# ties between grids of one shape, sizes a pixel beside a border (tests/data/tiling.json has them too).
GOLDEN_GRIDS: Mapping[tuple[int, int, int], tuple[int, int]] = {
    (1, 1, 12): (1, 1),
    (448, 448, 1): (1, 1),
    (633, 633, 12): (1, 1),
    (634, 634, 12): (2, 2),
    (1267, 1267, 12): (3, 3),
    (1268, 1268, 12): (3, 3),
    (448, 896, 6): (1, 2),
    (897, 448, 12): (2, 1),
    (640, 480, 12): (4, 3),
    (800, 600, 6): (3, 2),
    (1920, 1080, 12): (4, 2),
    (1080, 1920, 40): (4, 7),
    (3024, 4032, 24): (3, 4),
    (4000, 3000, 12): (4, 3),
    (1170, 2532, 12): (2, 4),
    (16384, 82, 12): (12, 1),
    (1, 4000, 40): (1, 40),
    (2480, 3508, 12): (2, 3),
}

# SHA-256 of the normalised values of every byte in each channel, float32, little-endian.
_GOLDEN_PIXELS = "1d8b9af12b7b391827f7c801265239e21435c7e29b4d78c6189a35e437633897"

# SHA-256 of `_SAMPLES` written by a template of ours.
_GOLDEN_TEMPLATES: Mapping[str, str] = {
    "internvl2_5": "4bd87017291945eee33d2196534696969081c03e9141a6f8c5cccec5830d8cf9",
}

_IMAGE = ImageReference("data:,", Detail.AUTO, None, "messages[0].content[0].image_url")
_SAMPLES = (
    Conversation((Message("user", (_IMAGE, TextPart("What is this?"))),)),
    Conversation(
        (
            Message("system", (TextPart("Be brief."),)),
            Message("user", (_IMAGE, _IMAGE, TextPart("<|im_end|> What differs?"))),
            Message("assistant", (TextPart("Nothing."),)),
            Message("user", (TextPart("Sure?"),)),
        )
    ),
    Conversation(
        (
            Message("user", (TextPart("Look."),)),
            Message("assistant", (TextPart("Yes."),), (ToolCall("1", "look", '{"at": "é"}'),)),
            Message("tool", (TextPart("A cat."),), tool_call_id="1"),
            Message("tool", (TextPart("<tool_call>"),), tool_call_id="1"),
        ),
        (Tool("look", "Looks.", {"type": "object"}), Tool("wait")),
    ),
)


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """What was found at start; hashes are SHA-256, in hex."""

    template_hash: str
    tokenizer_hash: str
    tiles_hash: str
    num_grids: int = len(GOLDEN_GRIDS)


def run_self_check(template: Template, tokenizer: PromptTokenizer) -> SelfCheck:
    """Compute the stored values anew. Takes about a millisecond.

    Raises:
        StartupError: One differs: this is not the model's own preprocessing.
    """
    grids = {key: select_grid(*key[:2], max_tiles=key[2]) for key in GOLDEN_GRIDS}
    for key, grid in grids.items():
        if grid != GOLDEN_GRIDS[key]:
            raise _mismatch(
                f"a picture of {key[0]}x{key[1]} at {key[2]} tiles is cut {grid}, not {GOLDEN_GRIDS[key]}"
            )
    pixels = _pixels_hash()
    if pixels != _GOLDEN_PIXELS:
        raise _mismatch("pixels are normalised to other values")
    template_hash = _template_hash(template)
    if template_hash != _GOLDEN_TEMPLATES.get(template.name, template_hash):
        raise _mismatch(f"the template {template.name} writes other prompts")
    return SelfCheck(
        template_hash=template_hash,
        tokenizer_hash=tokenizer.digest,
        tiles_hash=_sha256(repr(sorted(grids.items())), pixels),
    )


def fingerprint_of(check: SelfCheck, version: str, config_hash: str) -> str:
    """The `system_fingerprint`: changes when something that shapes answers does.

    Args:
        check: What was found at start.
        version: The server's.
        config_hash: Hash of the checkpoint's config.json.
    """
    hashes = (check.template_hash, check.tokenizer_hash, check.tiles_hash)
    return "fp_" + _sha256(version, *hashes, config_hash)[:12]


def _pixels_hash() -> str:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    tiles = ImageTiles(np.repeat(levels, 3, axis=3), (1, 1), (16, 16))
    return hashlib.sha256(to_pixel_values([tiles]).astype("<f4").tobytes()).hexdigest()


def _template_hash(template: Template) -> str:
    return _sha256(template.name, *(_written(template, sample) for sample in _SAMPLES))


def _written(template: Template, conversation: Conversation) -> str:
    """The prompt as one string in which text cannot be taken for a control token."""
    try:
        return "".join(map(_marked, template.render(conversation)))
    except InvalidRequestError:  # a checkpoint's own template may not accept it
        return "refused"


def _marked(segment: Segment) -> str:
    if isinstance(segment, str):
        return segment
    return f"\0{segment.name}\0" if isinstance(segment, Control) else f"\0{segment.index}\0"


def _sha256(*parts: str) -> str:
    return hashlib.sha256("\0\0".join(parts).encode()).hexdigest()


def _mismatch(what: str) -> StartupError:
    return StartupError(
        f"The self-check failed: {what}. The installed server is damaged or was changed; answers "
        "would be worse without looking wrong. Install it again."
    )
