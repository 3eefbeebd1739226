"""The settings of the engines."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from internvl_server.settings.section import PositiveInt, Section

__all__ = ["CpuSettings", "EchoSettings", "EngineSettings", "TurbomindSettings"]


class EchoSettings(Section):
    """The echo engine: answers with the prompt"s own last tokens. For tests and client development."""

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
    """Numbers of this node"s GPUs, `tp / nnodes` of them; empty means the first ones."""
    dtype: Literal["auto", "float16", "bfloat16"] = "auto"
    """Arithmetic; `auto` means the checkpoint"s own."""
    model_format: Literal["", "hf", "awq", "gptq", "compressed-tensors", "fp8"] = ""
    """Weight format; empty means what the checkpoint"s config says."""
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
    """This machine"s number; requests go to number 0."""
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
