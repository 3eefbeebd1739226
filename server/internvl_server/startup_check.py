"""Start-up check of tiling, resize, normalisation and prompt template against stored values of the reference.

Wrong tiles or a wrong prompt make answers worse without making them look wrong. The server therefore
computes the stored values anew at each start, and does not start if one differs. `/version` shows the hashes
of what was checked and of the tokenizer; the `system_fingerprint` is derived from them.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from internvl_server.core import (
    Conversation,
    Detail,
    ImageReference,
    Message,
    TextPart,
    Tool,
    ToolCall,
)
from internvl_server.errors import InvalidRequestError, StartupError
from internvl_server.media.pixels.levels import level_values
from internvl_server.media.pixels.resizing import ExactResizer
from internvl_server.media.tiling import select_grid
from internvl_server.prompt.segments import Control, Segment
from internvl_server.prompt.template import Template
from internvl_server.prompt.tokenizer import PromptTokenizer

__all__ = [
    "GOLDEN_GRIDS",
    "StartupCheck",
    "check_tiles",
    "fingerprint_of",
    "run_startup_check",
    "written_prompt",
]

# (width, height, maximum number of tiles) → (columns, rows) of the published `dynamic_preprocess`: extreme
# shapes, ties between grids of the same shape, and sizes one pixel from a border. They are a part of
# tests/data/tiling.json.
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

# SHA-256 of the normalised values of all 256 levels of each channel, as little-endian float32.
_GOLDEN_PIXELS = "1d8b9af12b7b391827f7c801265239e21435c7e29b4d78c6189a35e437633897"

# SHA-256 of the levels of a small upright picture, resized exactly to `_SIZES`: equals one call of Pillow 12.
# Pillow 13 by itself resizes such a picture in the other order.
_GOLDEN_RESIZE = "5a29f8cec9989f93d269249246a54a5ae531ffc1cee8bab398a6f76aeda67360"
_SIZES = ((56, 28), (112, 112))

# SHA-256 of the prompts that each of this server's templates writes for `_SAMPLES`.
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
class StartupCheck:
    """Results of the check. Hashes are SHA-256 in hexadecimal."""

    template_hash: str
    tokenizer_hash: str
    tiles_hash: str
    num_grids: int = len(GOLDEN_GRIDS)


def run_startup_check(template: Template, tokenizer: PromptTokenizer) -> StartupCheck:
    """Compare tiling, resize, normalisation and template with the stored values. Takes a few milliseconds.

    Raises:
        StartupError: A value differs, so that the model would not see what it was trained on.
    """
    tiles_hash = check_tiles()
    template_hash = _template_hash(template)
    if template_hash != _GOLDEN_TEMPLATES.get(template.name, template_hash):
        raise _mismatch(f"the prompts of the template {template.name} differ from the stored ones")
    return StartupCheck(
        template_hash=template_hash, tokenizer_hash=tokenizer.digest, tiles_hash=tiles_hash
    )


def check_tiles() -> str:
    """Compare tiling, resize and normalisation with the stored values, and return a hash of them.

    Raises:
        StartupError: A value differs.
    """
    grids = {key: select_grid(*key[:2], max_tiles=key[2]) for key in GOLDEN_GRIDS}
    for key, grid in grids.items():
        if grid != GOLDEN_GRIDS[key]:
            raise _mismatch(
                f"an image of {key[0]}x{key[1]} pixels at {key[2]} tiles is cut into a grid of {grid} "
                f"instead of {GOLDEN_GRIDS[key]}"
            )
    pixels = _pixels_hash()
    if pixels != _GOLDEN_PIXELS:
        raise _mismatch("the normalised pixel values differ from the stored ones")
    resized = _resize_hash()
    if resized != _GOLDEN_RESIZE:
        raise _mismatch("resized images differ from the stored ones")
    return _sha256(repr(sorted(grids.items())), pixels, resized)


def fingerprint_of(check: StartupCheck, version: str, config_hash: str) -> str:
    """The `system_fingerprint`, which changes with the preprocessing, the version and the config.

    Args:
        check: Results of the start-up check.
        version: Version of the server.
        config_hash: Hash of the checkpoint's config.json.
    """
    hashes = (check.template_hash, check.tokenizer_hash, check.tiles_hash)
    return "fp_" + _sha256(version, *hashes, config_hash)[:12]


def _pixels_hash() -> str:
    return hashlib.sha256(level_values().astype("<f4").tobytes()).hexdigest()


def _resize_hash() -> str:
    y, x = np.mgrid[0:130, 0:60]
    levels = np.stack((4 * x + y // 2, x * y // 7, (x // 5 + y // 7) % 2 * 200), axis=-1)
    image, resizer = Image.fromarray(levels.astype(np.uint8)), ExactResizer()
    planes = [plane.tobytes() for size in _SIZES for plane in resizer.planes(image, size)]
    return hashlib.sha256(b"".join(planes)).hexdigest()


def _template_hash(template: Template) -> str:
    prompts = [written_prompt(template, sample) for sample in _SAMPLES]
    if not any(prompts):
        raise StartupError(
            f"The chat template of model.template ({template.name}) accepts no conversation, or does not end."
        )
    return _sha256(template.name, *(prompt or "refused" for prompt in prompts))


def written_prompt(template: Template, conversation: Conversation) -> str | None:
    """The prompt as one string, in which control tokens are marked so that text cannot imitate them.

    None if the template does not accept the conversation, as that of a checkpoint may.
    """
    try:
        return "".join(map(_marked, template.render(conversation)))
    except InvalidRequestError:
        return None


def _marked(segment: Segment) -> str:
    if isinstance(segment, str):
        return segment
    return f"\0{segment.name}\0" if isinstance(segment, Control) else f"\0{segment.index}\0"


def _sha256(*parts: str) -> str:
    return hashlib.sha256("\0\0".join(parts).encode()).hexdigest()


def _mismatch(what: str) -> StartupError:
    return StartupError(
        f"The self-check failed: {what}. The installed server is damaged or was changed; its answers "
        "would be worse without looking wrong. Reinstall it."
    )
