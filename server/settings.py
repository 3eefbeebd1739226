"""Every setting, with its unit and effect.

Order: command line > environment (`INTERNVL_MEDIA__MAX_IMAGE_BYTES`) > TOML file > default. An unknown
key is an error. Loaded once, in `cli.py`; every object gets the section it needs.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    SettingsConfigDict,
)

from server.settings_media import MediaSettings
from server.settings_section import PositiveFloat, PositiveInt, Section

__all__ = [
    "ENV_PREFIX",
    "CpuSettings",
    "EchoSettings",
    "EngineSettings",
    "LimitSettings",
    "LogSettings",
    "MediaSettings",
    "ModelSettings",
    "ServerSettings",
    "Settings",
    "TurbomindSettings",
]

DEMO_MODEL = Path(__file__).parent / "demo_model"

ENV_PREFIX = "INTERNVL_"


def _not_blank(key: SecretStr) -> SecretStr:
    if not key.get_secret_value().strip():
        raise ValueError("a key must not be empty")
    return key


class ServerSettings(Section):
    """The socket and who may use it."""

    host: str = "127.0.0.1"
    """Address to listen on. Anything but loopback needs `api_keys`, or `allow_anonymous = true`."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """TCP port; 0 picks a free one and prints it."""
    api_keys: tuple[Annotated[SecretStr, AfterValidator(_not_blank)], ...] = ()
    """Accepted bearer keys; empty means no key is asked for."""
    allow_anonymous: bool = False
    """Listen on a non-loopback address without keys, e.g. behind an authenticating proxy."""
    keep_alive_s: PositiveInt = 75
    """Seconds an idle connection stays open; keep it longer than the load balancer's own."""
    unknown_fields: Literal["refuse", "ignore"] = "refuse"
    """`refuse`: a field that is neither OpenAI's nor this server's gets 400, as OpenAI does. `ignore`: it
    is ignored and named in the header `x-ignored-fields`."""
    sse_ping_s: PositiveFloat = 15.0
    """Seconds between keep-alive comments on a stream that has nothing else to send."""
    send_timeout_s: PositiveFloat = 30.0
    """Seconds a client may leave a stream unread, buffers full, before it is cut."""
    pre_drain_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds after SIGTERM in which `/ready` says 503 and requests are still served: as long as the
    balancer takes to notice, e.g. 10 for three checks two seconds apart."""
    drain_s: PositiveInt = 90
    """Seconds running requests get to finish after SIGTERM before they are aborted."""


class ModelSettings(Section):
    """Which checkpoint is served and how prompts are written for it."""

    path: str = str(DEMO_MODEL)
    """Folder of a checkpoint, or a hub repository name. Default: the bundled demo model."""
    served_name: str = ""
    """Name clients use in `model`; empty means the `served_name` of the checkpoint's config, else the
    last part of `path`."""
    accept_any_name: bool = False
    """Answer whatever name a request has in `model`, for clients whose name cannot be changed."""
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


class TurbomindSettings(Section):
    """LMDeploy TurboMind on NVIDIA GPUs."""

    tp: PositiveInt = 1
    """GPUs that share the model (tensor parallelism), over all nodes; must divide its heads."""
    devices: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Numbers of this node's GPUs, `tp / nnodes` of them; empty means the first ones."""
    dtype: Literal["auto", "float16", "bfloat16"] = "auto"
    """Arithmetic; `auto` means the checkpoint's own."""
    model_format: Literal["", "hf", "awq", "gptq", "compressed-tensors", "fp8"] = ""
    """Weight format; empty means what the checkpoint's config says."""
    quant_policy: Annotated[Literal[0, 4, 8], BeforeValidator(int)] = 0
    """Bits of keys and values: 8 or 4, or 0 for those of `dtype`."""
    cache_max_entry_count: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Share of the GPU memory left after loading that holds keys and values."""
    enable_prefix_caching: bool = True
    """Reuse keys and values of prompts, pictures included, that begin alike."""
    max_prefill_token_num: PositiveInt = 8192
    """Most prompt tokens computed in one step."""
    communicator: Literal["nccl", "cuda-ipc"] = "nccl"
    """How GPUs exchange data; `cuda-ipc` is for the GPUs of one node."""
    nnodes: PositiveInt = 1
    """Machines that share the model; each runs this server, with its own `node_rank`."""
    node_rank: Annotated[int, Field(ge=0)] = 0
    """This machine's number; requests go to number 0."""
    dist_init_addr: Annotated[str, Field(pattern=r"^([^:\s]+:\d{1,5})?$")] = ""
    """`host:port` of machine 0, where the machines meet."""

    @model_validator(mode="after")
    def _check_agreement(self) -> Self:
        is_alone, num_devices = self.nnodes == 1, {len(self.devices), len(set(self.devices))}
        rules = {
            "tp must be a multiple of nnodes": self.tp % self.nnodes == 0,
            "devices must name tp / nnodes GPUs": num_devices in ({0}, {self.tp // self.nnodes}),
            "node_rank must be less than nnodes": self.node_rank < self.nnodes,
            "nnodes over 1 needs dist_init_addr, 1 none": is_alone != bool(self.dist_init_addr),
            "nnodes over 1 needs communicator nccl": is_alone or self.communicator == "nccl",
        }
        if broken := [rule for rule, holds in rules.items() if not holds]:
            raise ValueError("; ".join(broken))
        return self


class EngineSettings(Section):
    """Which engine computes, and its own section."""

    kind: Literal["cpu", "turbomind", "echo"] = "cpu"
    """`cpu`: PyTorch on the cores. `turbomind`: LMDeploy on NVIDIA GPUs. `echo`: none, for tests."""
    max_num_seqs: PositiveInt = 16
    """Most requests computed at the same time; more wait in order."""
    cpu: CpuSettings = CpuSettings()
    """Settings of the CPU engine."""
    turbomind: TurbomindSettings = TurbomindSettings()
    """Settings of the TurboMind engine."""
    echo: EchoSettings = EchoSettings()
    """Settings of the echo engine."""


class LimitSettings(Section):
    """What one request, and all of them together, may ask for."""

    max_body_bytes: PositiveInt = 32 << 20
    """Largest request body."""
    body_timeout_s: PositiveFloat = 30.0
    """Seconds a client may take to send its body."""
    max_in_flight: PositiveInt = 128
    """Requests accepted at the same time, waiting ones included; more get 429 at once."""
    max_tiles_in_flight: PositiveInt = 1024
    """Tiles of all requests in flight, counted for each choice, 2.4 MB of memory each; more get 429."""
    max_messages: PositiveInt = 256
    """Most messages of one conversation."""
    max_parts: PositiveInt = 64
    """Most content parts of one message."""
    max_tools: PositiveInt = 128
    """Most tools of one request, and most tool calls of one message."""
    max_choices: Annotated[int, Field(gt=0, le=128)] = 16
    """Most answers of one request (`n`)."""
    max_prompts: PositiveInt = 64
    """Most prompts, times `n` if there are several, of one request of `/v1/completions`."""
    default_max_tokens: PositiveInt = 1024
    """Most tokens of an answer whose request names no limit."""


class LogSettings(Section):
    """What is logged. Prompts, images and keys never are."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is written."""


class Settings(BaseSettings):
    """All sections. Build it with `load_settings`, or directly in a test."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
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
