"""Every setting, with its unit and effect. The only module that reads the environment or a config file.

Order: command line > environment (`INTERNVL_MEDIA__MAX_IMAGE_BYTES`) > TOML file > default. An unknown
key is an error. Loaded once, in `cli.py`; every object gets the section it needs.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

__all__ = [
    "CpuSettings",
    "EchoSettings",
    "EngineSettings",
    "LimitSettings",
    "LogSettings",
    "MediaSettings",
    "ModelSettings",
    "ServerSettings",
    "Settings",
    "load_settings",
    "settings_table",
]

DEMO_MODEL = Path(__file__).parent / "demo_model"

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """What all sections share: frozen, unknown keys refused, docstrings are the help texts."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ServerSettings(Section):
    """The socket and who may use it."""

    host: str = "127.0.0.1"
    """Address to listen on. Anything but loopback needs `api_keys`, or `allow_anonymous = true`."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """TCP port; 0 picks a free one and prints it."""
    api_keys: tuple[SecretStr, ...] = ()
    """Accepted bearer keys; empty means no key is asked for."""
    allow_anonymous: bool = False
    """Listen on a non-loopback address without keys, e.g. behind an authenticating proxy."""
    keep_alive_s: PositiveInt = 75
    """Seconds an idle connection stays open; keep it longer than the load balancer's own."""
    sse_ping_s: PositiveFloat = 15.0
    """Seconds between keep-alive comments on a stream that has nothing else to send."""
    drain_s: PositiveInt = 90
    """Seconds running requests get to finish after SIGTERM before they are aborted."""


class ModelSettings(Section):
    """Which checkpoint is served and how prompts are written for it."""

    path: str = str(DEMO_MODEL)
    """Folder of a checkpoint, or a hub repository name. Default: the bundled demo model."""
    served_name: str = ""
    """Name clients use in `model`; empty means the `served_name` of the checkpoint's config, else the
    last part of `path`."""
    revision: str = ""
    """Hub revision; empty means the default branch."""
    download_dir: str = ""
    """Where hub checkpoints are kept; empty means the hub library's own cache."""
    template: Literal["", "internvl2_5", "checkpoint"] = ""
    """Prompt template: `internvl2_5`, or `checkpoint` for the checkpoint's own chat template. Empty
    means the `template` of the checkpoint's config, else `internvl2_5`."""
    max_model_len: Annotated[int, Field(ge=0)] = 0
    """Context limit in tokens, prompt and answer together; 0 means the checkpoint's own."""


class EchoSettings(Section):
    """The echo engine: answers with the prompt's own last tokens. For tests and client development."""

    token_delay_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds before each token."""
    first_token_delay_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds before the first token, as a prefill would take."""
    fail_after_tokens: Annotated[int, Field(ge=-1)] = -1
    """Fail each request after so many tokens; -1 never."""
    hang_after_tokens: Annotated[int, Field(ge=-1)] = -1
    """Stop producing after so many tokens, without an error; -1 never."""


class CpuSettings(Section):
    """The CPU engine."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic and weight type; bfloat16 halves memory."""
    num_threads: Annotated[int, Field(ge=0)] = 0
    """Compute threads; 0 means one for a model under 50 M parameters, else every core."""
    kv_cache_bytes: PositiveInt = 1 << 30
    """Most memory for keys and values of all running requests. A request is started when its prompt
    and its `max_tokens` fit; until then it waits in order."""
    prefill_chunk_tokens: PositiveInt = 256
    """Prompt tokens computed between two decode steps: smaller disturbs running streams less, larger
    reads long prompts faster."""


class EngineSettings(Section):
    """Which engine computes, and its own section."""

    kind: Literal["cpu", "echo"] = "cpu"
    """`cpu`: PyTorch on this machine's cores. `echo`: no model, for tests."""
    max_num_seqs: PositiveInt = 16
    """Most requests computed at the same time; more wait in order."""
    cpu: CpuSettings = CpuSettings()
    """Settings of the CPU engine."""
    echo: EchoSettings = EchoSettings()
    """Settings of the echo engine."""


class MediaSettings(Section):
    """What images are accepted, and how they are fetched and prepared."""

    allow_remote: bool = True
    """Fetch http(s) URLs; when false only `data:` URLs are served."""
    allowed_private_networks: tuple[str, ...] = ()
    """CIDR ranges that may be fetched from although they are not public, e.g. a private object store."""
    allowed_hosts: tuple[str, ...] = ()
    """When not empty, the only host names images are fetched from; `.example.com` admits subdomains."""
    allowed_ports: tuple[PositiveInt, ...] = (80, 443)
    """Ports images are fetched from."""
    max_redirects: Annotated[int, Field(ge=0)] = 3
    """Redirects followed; each target is judged like the first URL."""
    resolve_timeout_s: PositiveFloat = 2.0
    """Seconds one name resolution may take."""
    connect_timeout_s: PositiveFloat = 3.0
    """Seconds one connection, TLS included, may take."""
    fetch_timeout_s: PositiveFloat = 10.0
    """Seconds one image may take to arrive, redirects and resolution included."""
    max_fetches: PositiveInt = 32
    """Images fetched at the same time by this process."""
    max_fetches_per_request: PositiveInt = 4
    """Images fetched at the same time for one request."""
    max_image_bytes: PositiveInt = 10 << 20
    """Largest encoded image, inline or fetched."""
    max_image_pixels: PositiveInt = 50_000_000
    """Most pixels of one image, read from its header before decoding."""
    max_image_side_px: PositiveInt = 16_384
    """Longest side of one image."""
    max_aspect_ratio: PositiveFloat = 200.0
    """Longest side divided by shortest."""
    max_images: PositiveInt = 8
    """Most images of one request."""
    max_tiles_per_request: PositiveInt = 64
    """Tile budget shared by all images of one request, thumbnails included."""
    num_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that decode and tile; 0 means one a core, at most 4."""
    decode_timeout_s: PositiveFloat = 10.0
    """Seconds one image may take to decode and tile before its process is ended."""


class LimitSettings(Section):
    """What one request, and all of them together, may ask for."""

    max_body_bytes: PositiveInt = 32 << 20
    """Largest request body."""
    body_timeout_s: PositiveFloat = 30.0
    """Seconds a client may take to send its body."""
    max_in_flight: PositiveInt = 128
    """Requests accepted at the same time, waiting ones included; more get 429 at once."""
    max_messages: PositiveInt = 256
    """Most messages of one conversation."""
    max_parts: PositiveInt = 64
    """Most content parts of one message."""
    default_max_tokens: PositiveInt = 1024
    """Most tokens of an answer whose request names no limit."""


class LogSettings(Section):
    """What is logged. Prompts, images and keys never are."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is written."""


class Settings(BaseSettings):
    """All sections. Build it with `load_settings`, or directly in a test."""

    model_config = SettingsConfigDict(
        env_prefix="INTERNVL_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    server: ServerSettings = ServerSettings()
    model: ModelSettings = ModelSettings()
    engine: EngineSettings = EngineSettings()
    media: MediaSettings = MediaSettings()
    limits: LimitSettings = LimitSettings()
    log: LogSettings = LogSettings()


def load_settings(config: Path | None, overrides: dict[str, Any]) -> Settings:
    """Merge command line, environment, TOML file and defaults.

    Args:
        config: TOML file with one table a section, or None.
        overrides: Nested values from the command line; they win.

    Raises:
        ValidationError: A value or key is wrong (pydantic's, lists every problem).
        OSError: The file cannot be read.
    """

    class FileSettings(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            toml = TomlConfigSettingsSource(settings_cls, toml_file=config)
            return init_settings, env_settings, toml

    return FileSettings(**overrides)


def settings_table() -> str:
    """Every setting as a Markdown table: key, default, unit and effect."""
    rows = ["| Setting | Default | Effect |", "| --- | --- | --- |"]
    for section, info in Settings.model_fields.items():
        assert isinstance(info.annotation, type), info
        rows += _rows(info.annotation, section)
    return "\n".join(rows)


def _rows(section: type[BaseModel], prefix: str) -> list[str]:
    rows: list[str] = []
    for name, info in section.model_fields.items():
        key = f"{prefix}.{name}"
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            rows += _rows(info.annotation, key)
            continue
        default = "the bundled demo model" if key == "model.path" else json.dumps(info.default)
        effect = " ".join((info.description or "").split())
        rows.append(f"| `{key}` | {default} | {effect} |")
    return rows
