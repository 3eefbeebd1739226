"""Finds a checkpoint folder, downloading it if necessary, and reads its small files; loads no weight."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from internvl_server.checkpoint.config import CheckpointConfig, TextConfig, parse_config
from internvl_server.checkpoint.hub import NEEDED, NESTED
from internvl_server.errors import StartupError
from internvl_server.settings import ModelSettings

__all__ = ["Checkpoint", "find_folder", "load_checkpoint", "load_config", "read_config"]

_log = logging.getLogger(__name__)

_IMAGE_TOKEN = "<IMG_CONTEXT>"  # noqa: S105  (the text of a token, not a secret)
_TURN_ENDS = ("<|im_end|>", "<|endoftext|>")
_DEFAULT_MAX_TILES = 12


class _AddedToken(NamedTuple):
    text: str
    id: int
    is_special: bool


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint folder and what its files say.

    `config` is its config.json and `config_hash` the SHA-256 of that file, in hex. `max_tiles` is the number
    of tiles per image it was trained for, without thumbnail; `max_model_len` the served context in tokens;
    `stop_token_ids` end an answer. `needs_code` is true if its tokenizer exists only as Python code.
    """

    path: Path
    config: CheckpointConfig
    config_hash: str
    served_name: str
    template: str
    max_tiles: int
    max_model_len: int
    image_token_id: int
    stop_token_ids: frozenset[int]
    needs_code: bool

    @property
    def tile_px(self) -> int:
        """Side of a tile in pixels."""
        return self.config.tile_px

    @property
    def num_tokens_per_tile(self) -> int:
        """Image tokens that stand for one tile in the prompt."""
        return self.config.num_tokens_per_tile


def load_checkpoint(settings: ModelSettings) -> Checkpoint:
    """Find the checkpoint, downloading its files when `path` names a hub repository, and read its configs.

    Raises:
        StartupError: There is no such checkpoint, or it is not an InternVL one.
    """
    path = _resolve(settings)
    name = settings.path.rstrip("/").rsplit("/", 1)[-1]
    config = read_config(path, name)
    tokenizer = _read_json(path / "tokenizer_config.json")
    try:
        added = _added_tokens(path, tokenizer)
        return Checkpoint(
            path=path,
            config=config,
            config_hash=hashlib.sha256((path / "config.json").read_bytes()).hexdigest(),
            served_name=settings.served_name or config.served_name or name,
            template=settings.template or config.template or "internvl2_5",
            max_tiles=config.max_tiles or _max_patches(path),
            max_model_len=_context(settings.max_model_len, config.text),
            image_token_id=_image_token_id(config, added),
            stop_token_ids=_stop_token_ids(path, config, added),
            needs_code="AutoTokenizer" in (tokenizer.get("auto_map") or {}),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise StartupError(
            f"A tokenizer, generation or preprocessor file of {name} is not one of an InternVL model: "
            f"{err!r}."
        ) from err


def load_config(settings: ModelSettings) -> CheckpointConfig:
    """Read the checkpoint's config.json. Of a hub repository, only this file is downloaded.

    Raises:
        StartupError: There is no such checkpoint, or it is not an InternVL one.
    """
    name = settings.path.rstrip("/").rsplit("/", 1)[-1]
    return read_config(_resolve(settings, ["config.json"]), name)


def read_config(folder: Path, name: str) -> CheckpointConfig:
    """Read the config.json of a checkpoint folder.

    Args:
        folder: The checkpoint's.
        name: The checkpoint's name, for messages.

    Raises:
        StartupError: It is missing, not JSON, or not that of an InternVL model.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise StartupError(f"The checkpoint folder has no {path.name}.")
    return parse_config(_read_json(path), name)


def find_folder(settings: ModelSettings) -> Path | None:
    """The checkpoint's folder, or the one that its files were downloaded to; downloads nothing.

    Returns:
        None if the hub repository was not downloaded; the folder may be incomplete.

    Raises:
        StartupError: `path` is neither a folder nor the name of a hub repository.
    """
    return _folder_of(settings) or _downloaded(settings)


def _resolve(settings: ModelSettings, files: Sequence[str] = NEEDED) -> Path:
    return _folder_of(settings) or _download(settings, files)


def _folder_of(settings: ModelSettings) -> Path | None:
    """The folder that `path` names; None if it is the name of a hub repository."""
    path = Path(settings.path).expanduser()
    if path.is_dir():
        return path
    if settings.path.startswith((".", "/", "~")) or settings.path.count("/") != 1:
        raise StartupError(
            f"model.path: there is no folder {settings.path!r}. "
            "Give a checkpoint folder or a hub name such as OpenGVLab/InternVL3-1B-hf."
        )
    return None


def _downloaded(settings: ModelSettings) -> Path | None:
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

    found: str | None
    try:
        found = snapshot_download(
            settings.path,
            revision=settings.revision or None,
            cache_dir=settings.download_dir or None,
            allow_patterns=list(NEEDED),
            ignore_patterns=[NESTED],
            local_files_only=True,
        )
    except (LocalEntryNotFoundError, ValueError) as err:
        found = getattr(err, "snapshot_path", None)  # where files are missing
    return None if found is None else Path(found)


def _download(settings: ModelSettings, files: Sequence[str]) -> Path:
    # Imported here: most deployments serve a folder and need no hub client.
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        folder = snapshot_download(
            settings.path,
            revision=settings.revision or None,
            cache_dir=settings.download_dir or None,
            allow_patterns=list(files),
            ignore_patterns=[NESTED],
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as err:
        raise StartupError(
            f"model.path: there is no folder {settings.path!r}, and it could not be downloaded from the "
            f"hub ({type(err).__name__}). `internvl-server download` says why, and continues after a failure."
        ) from err
    return Path(folder)


def _read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no such file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as err:
        raise StartupError(f"{path.name} of the checkpoint is not readable JSON.") from err
    if not isinstance(value, dict):
        raise StartupError(f"{path.name} of the checkpoint is not a JSON object.")
    return value


def _max_patches(path: Path) -> int:
    """Transformers' name for the number of tiles, in its own file."""
    preprocessor = _read_json(path / "preprocessor_config.json")
    return int(preprocessor.get("max_patches", _DEFAULT_MAX_TILES))


def _context(requested: int, text: TextConfig) -> int:
    trained = text.max_position_embeddings
    if requested > text.max_context:
        longest = f", and its rope_scaling allows {text.max_context}"
        raise StartupError(
            f"model.max_model_len is {requested}, but the checkpoint was trained for {trained} tokens"
            f"{longest if text.max_context > trained else ''}."
        )
    return requested or trained


def _image_token_id(config: CheckpointConfig, added_tokens: Sequence[_AddedToken]) -> int:
    if config.image_token_id is not None:
        return config.image_token_id
    for token in added_tokens:
        if token.text == _IMAGE_TOKEN:
            return token.id
    raise StartupError(f"The checkpoint's tokenizer has no token {_IMAGE_TOKEN}.")


def _added_tokens(path: Path, tokenizer_config: dict[str, Any]) -> list[_AddedToken]:
    """Every added token, from the tokenizer file that the checkpoint has."""
    if (path / "tokenizer.json").exists():
        added = _read_json(path / "tokenizer.json").get("added_tokens", [])
        return [_AddedToken(x["content"], int(x["id"]), bool(x.get("special"))) for x in added]
    table = tokenizer_config.get("added_tokens_decoder", {})
    return [
        _AddedToken(x["content"], int(token_id), bool(x.get("special")))
        for token_id, x in table.items()
    ]


def _stop_token_ids(
    path: Path, config: CheckpointConfig, added_tokens: Sequence[_AddedToken]
) -> frozenset[int]:
    """Ids that end an answer: the template's turn end, and those the checkpoint's configs name.

    An id that is no special token is left out, since it would end answers at a word: the converter of
    transformers writes the end of InternLM2's turns into the file of the 9B, whose text model is InternLM3.
    """
    eos = _read_json(path / "generation_config.json").get("eos_token_id")
    named = eos if isinstance(eos, list) else [] if eos is None else [eos]
    ends = {token.id for token in added_tokens if token.text in _TURN_ENDS}
    named_ids = {*config.text.eos_token_ids, *map(int, named)} - ends
    if words := named_ids - {token.id for token in added_tokens if token.is_special}:
        _log.warning("the checkpoint's configs end answers at %s, no special tokens", sorted(words))
    return frozenset(ends | (named_ids - words))
