"""What a checkpoint folder says about its model: read once, before any weight is loaded.

Knows both layouts: the authors' (`InternVLChatModel`) and transformers' (`-hf`,
`InternVLForConditionalGeneration`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from internvl_server.errors import StartupError
from internvl_server.settings import ModelSettings

__all__ = ["Checkpoint", "Layout", "load_checkpoint"]

Layout: TypeAlias = Literal["authors", "hf"]

_LAYOUTS: Mapping[str, Layout] = {
    "InternVLChatModel": "authors",
    "InternVLForConditionalGeneration": "hf",
}
_IMAGE_TOKEN = "<IMG_CONTEXT>"  # noqa: S105  (a token's text, no secret)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint folder and what every stage needs to know of it.

    `tile_px` is a tile's side in pixels, `num_tokens_per_tile` the image tokens one tile stands for,
    `max_tiles` the tiles per image it was trained for (without thumbnail), `max_model_len` its context
    in tokens. `config` is its whole config.json.
    """

    path: Path
    layout: Layout
    config: Mapping[str, Any]
    served_name: str
    template: str
    tile_px: int
    num_tokens_per_tile: int
    max_tiles: int
    max_model_len: int
    image_token_id: int
    stop_token_ids: frozenset[int]


def load_checkpoint(settings: ModelSettings) -> Checkpoint:
    """Find the checkpoint, downloading its files when `path` names a hub repository, and read its config.

    Raises:
        StartupError: There is no such checkpoint, or it is not an InternVL one.
    """
    path = _resolve(settings)
    config = _read_json(path / "config.json")
    try:
        return _from_config(settings, path, config)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as err:
        raise StartupError(
            f"The checkpoint's config files are not those of an InternVL model: {err!r}."
        ) from err


def _from_config(settings: ModelSettings, path: Path, config: Mapping[str, Any]) -> Checkpoint:
    layout = _layout_of(config)
    text_config = config.get("llm_config") or config.get("text_config") or {}
    image_px = config.get("force_image_size") or config["vision_config"]["image_size"]
    tile_px = _first(image_px)
    patch_px = _first(config["vision_config"]["patch_size"])
    per_side = tile_px // patch_px * float(config.get("downsample_ratio", 0.5))
    own_len = int(text_config.get("max_position_embeddings", 8192))
    return Checkpoint(
        path=path,
        layout=layout,
        config=config,
        served_name=_served_name(settings, config),
        template=settings.template or str(config.get("template") or "internvl2_5"),
        tile_px=tile_px,
        num_tokens_per_tile=int(per_side * per_side),
        max_tiles=_max_tiles(path, config),
        max_model_len=_context(settings.max_model_len, own_len),
        image_token_id=_image_token_id(path, config),
        stop_token_ids=_stop_token_ids(path, text_config),
    )


def _resolve(settings: ModelSettings) -> Path:
    path = Path(settings.path).expanduser()
    if path.is_dir():
        return path
    if settings.path.startswith((".", "/", "~")) or settings.path.count("/") != 1:
        raise StartupError(
            f"model.path: there is no folder {settings.path!r}. "
            "Give a checkpoint folder or a hub name such as OpenGVLab/InternVL3-1B-hf."
        )
    return _download(settings)


def _download(settings: ModelSettings) -> Path:
    # Imported here: most deployments serve a folder and need no hub client.
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        folder = snapshot_download(
            settings.path,
            revision=settings.revision or None,
            cache_dir=settings.download_dir or None,
            allow_patterns=["*.json", "*.jinja", "*.txt", "*.model", "*.safetensors"],
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as err:
        raise StartupError(
            f"model.path: {settings.path!r} is no folder here and could not be had from the hub "
            f"({type(err).__name__}). Download it beforehand and give its folder."
        ) from err
    return Path(folder)


def _served_name(settings: ModelSettings, config: Mapping[str, Any]) -> str:
    own = str(config.get("served_name") or "")
    return settings.served_name or own or settings.path.rstrip("/").rsplit("/", 1)[-1]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise StartupError(f"The checkpoint folder has no {path.name}.") from err
    except ValueError as err:
        raise StartupError(f"{path.name} of the checkpoint is not valid JSON.") from err
    if not isinstance(value, dict):
        raise StartupError(f"{path.name} of the checkpoint is not a JSON object.")
    return value


def _layout_of(config: Mapping[str, Any]) -> Layout:
    architectures = config.get("architectures") or []
    for architecture in architectures:
        if architecture in _LAYOUTS:
            return _LAYOUTS[architecture]
    raise StartupError(
        f"config.json names the architecture {architectures}; served are {sorted(_LAYOUTS)}."
    )


def _first(value: int | list[int]) -> int:
    """A size is a number in the authors' layout and a [height, width] pair in the other."""
    return value[0] if isinstance(value, list) else value


def _max_tiles(path: Path, config: Mapping[str, Any]) -> int:
    if "max_dynamic_patch" in config:
        return int(config["max_dynamic_patch"])
    preprocessor = path / "preprocessor_config.json"
    if preprocessor.exists():
        return int(_read_json(preprocessor).get("max_patches", 12))
    return 12


def _context(wanted: int, own: int) -> int:
    if wanted > own:
        raise StartupError(
            f"model.max_model_len is {wanted}, but the checkpoint was made for {own} tokens."
        )
    return wanted or own


def _image_token_id(path: Path, config: Mapping[str, Any]) -> int:
    if "image_token_id" in config:
        return int(config["image_token_id"])
    return _added_tokens(path)[_IMAGE_TOKEN]


def _added_tokens(path: Path) -> dict[str, int]:
    """Text and id of every added token, from whichever tokenizer file the checkpoint has."""
    tokenizer = path / "tokenizer.json"
    if tokenizer.exists():
        added = _read_json(tokenizer).get("added_tokens", [])
        return {token["content"]: int(token["id"]) for token in added}
    table = _read_json(path / "tokenizer_config.json").get("added_tokens_decoder", {})
    return {token["content"]: int(token_id) for token_id, token in table.items()}


def _stop_token_ids(path: Path, text_config: Mapping[str, Any]) -> frozenset[int]:
    """Ids that end an answer: the template's turn end, and what the checkpoint's configs name."""
    added = _added_tokens(path)
    ids = {added[name] for name in ("<|im_end|>", "<|endoftext|>") if name in added}
    generation = path / "generation_config.json"
    sources = [text_config] + ([_read_json(generation)] if generation.exists() else [])
    for source in sources:
        eos = source.get("eos_token_id")
        ids.update(eos if isinstance(eos, list) else [] if eos is None else [cast("int", eos)])
    return frozenset(ids)
