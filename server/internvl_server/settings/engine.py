"""The `engine` section: which engine computes, and one section for each engine."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from internvl_server.settings.section import PositiveFloat, PositiveInt, Section

__all__ = ["CpuSettings", "EchoSettings", "EngineSettings", "TurbomindSettings"]


class EchoSettings(Section):
    """The echo engine, which repeats the text of the prompt. For tests and client development."""

    token_delay_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds before each token."""
    first_token_delay_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds before the first token, to imitate a prefill."""
    fail_after_tokens: Annotated[int, Field(ge=-1)] = -1
    """Fail each request after this many tokens; -1 means never."""
    hang_after_tokens: Annotated[int, Field(ge=-1)] = -1
    """Stop producing tokens after this many, without an error; -1 means never."""


class CpuSettings(Section):
    """The CPU engine: PyTorch on the processor's cores."""

    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """Data type of weights and arithmetic. `bfloat16` halves the memory, but is several times slower on a
    processor without instructions for it; `auto` means `bfloat16` where the processor has them, and `float32`
    elsewhere."""
    quantization: Literal["none", "int8"] = "none"
    """`int8` rounds the text model's matrices to 8 bits, with a scale for each output channel: less memory
    and several times more tokens per second, at a small loss of accuracy. Images are encoded in `dtype`."""
    num_threads: Annotated[int, Field(ge=0)] = 0
    """Compute threads; 0 means one for a model under 50 M parameters, otherwise one per core."""
    kv_cache_bytes: PositiveInt = 1 << 30
    """Memory limit, in bytes, of the keys and values of all running requests. A request starts when its
    prompt and its `max_tokens` fit; until then it waits in arrival order. What running requests leave of it
    keeps the keys and values of ended ones for `enable_prefix_caching`."""
    enable_prefix_caching: bool = True
    """Reuse the keys and values of prompts, images included, that begin alike. The time of an answer, and
    `cached_tokens`, then tell a client whether another one has sent the same prompt."""
    report_cached_tokens: bool = True
    """Report the prompt tokens that were reused as `cached_tokens` in `usage`."""
    feature_cache_bytes: Annotated[int, Field(ge=0)] = 1 << 28
    """Memory limit, in bytes, of encoded images that are kept, so that an image is encoded once for several
    choices, turns and requests; 0 keeps none."""
    default_max_tokens: Annotated[int, Field(ge=0)] = 1024
    """Maximum number of generated tokens of a request that sets no limit, if `limits.default_max_tokens` is
    0. 0 means the rest of the context; memory for as many tokens is reserved while a request runs."""
    prefill_chunk_tokens: PositiveInt = 256
    """Prompt tokens computed between two decode steps. A smaller number disturbs running streams less, a
    larger one reads long prompts faster."""


class TurbomindSettings(Section):
    """The TurboMind engine: LMDeploy on NVIDIA GPUs."""

    tp: PositiveInt = 1
    """Number of GPUs that share the model (tensor parallelism). It must divide the number of
    attention heads."""
    devices: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Indices of the GPUs, `tp` of them; empty means the first ones."""
    dtype: Literal["auto", "float16", "bfloat16"] = "auto"
    """Data type of the arithmetic; `auto` means the data type of the checkpoint."""
    model_format: Literal["", "hf", "awq", "gptq", "compressed-tensors", "fp8"] = ""
    """Format of the weights; empty means the one in the checkpoint's config."""
    quant_policy: Annotated[Literal[0, 4, 8], BeforeValidator(int)] = 0
    """Bits of a cached key or value: 8, 4, or 0 for the size of `dtype`."""
    cache_max_entry_count: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Fraction of the GPU memory left after loading the weights that is used for keys and values."""
    enable_prefix_caching: bool = True
    """Reuse the keys and values of prompts, images included, that begin alike. The time of an answer, and
    `cached_tokens`, then tell a client whether another one has sent the same prompt."""
    report_cached_tokens: bool = True
    """Report the prompt tokens that were reused as `cached_tokens` in `usage`."""
    cache_prompt: Literal["auto", "all"] = "auto"
    """Prompts whose last, partly filled block of the cache can be reused: `auto` means those that end with an
    image, `all` every prompt, at the cost of one more prefill step."""
    cache_prompt_boundary_skip: PositiveInt = 1
    """Number of tokens at the end of a prompt that differ between equal conversations, and are not reused."""
    cache_generation: Literal["auto", "all", "none"] = "auto"
    """Answers that later prompts can reuse: `auto` means their full blocks, `all` the last one as well."""
    max_prefill_token_num: PositiveInt = 8192
    """Maximum number of prompt tokens, of images as well, computed in one step. A larger number reads prompts
    faster, but all running streams wait for the step, and its buffers take memory from the cache. 2048
    keeps streams even; 8192 suits batches."""
    num_tokens_per_iter: Annotated[int, Field(ge=0)] = 0
    """Number of tokens of one forward pass, with which TurboMind spreads the prefill of long prompts over
    `max_prefill_iters` passes, between decode steps; 0 means that it does not."""
    max_prefill_iters: PositiveInt = 1
    """Maximum number of forward passes that one prefill is spread over."""
    gemm_input_dtype: Literal["", "float16", "bfloat16", "float8_e4m3"] = ""
    """Preferred input type of the matrix kernels; empty leaves the choice to TurboMind."""
    hf_overrides: dict[str, Any] = {}  # noqa: RUF012  (pydantic copies it)
    """Values of the checkpoint's config.json to replace, for LMDeploy alone: this server's own checks, such
    as the memory plan, do not use them."""
    communicator: Literal["nccl", "cuda-ipc"] = "nccl"
    """How GPUs exchange data."""
    exit_after_stall_s: Annotated[float, Field(ge=0)] = 120.0
    """Seconds without progress on any request after which the process ends with exit code 3, to be started
    again; 0 means never. `/ready` answers 503 after 30 s already, and `/health` after 90 s."""
    nnodes: PositiveInt = 1
    """Number of machines that share the model: only 1, because LMDeploy 0.18 does not carry images and
    constraints to other machines."""
    dp: PositiveInt = 1
    """Number of copies of the model in one process: only 1. LMDeploy's copies have a scheduler and a prefix
    cache each, of which only the first can be watched. Start one server for each copy."""

    schema_policy: Literal["check", "refuse"] = "check"
    """What happens to a JSON schema that LMDeploy's grammar compiler cannot enforce completely: `check` names
    the keywords in the `x-warnings` header and checks the finished answer, `refuse` answers 400."""
    ignore_penalties: bool = False
    """Accept `presence_penalty` and `frequency_penalty`, which LMDeploy does not have, and leave them out of
    the computation with a sentence in the `x-warnings` header. Otherwise any value but 0 is refused."""

    @model_validator(mode="after")
    def _check_agreement(self) -> Self:
        rules = {
            "nnodes must be 1: LMDeploy 0.18 does not carry images and constraints to other machines": (
                self.nnodes == 1
            ),
            "dp must be 1: start one server for each copy of the model (server/docs/deployment.md)": (
                self.dp == 1
            ),
            "devices must name tp different GPUs": {len(self.devices), len(set(self.devices))}
            in ({0}, {self.tp}),
        }
        if broken := [rule for rule, holds in rules.items() if not holds]:
            raise ValueError("; ".join(broken))
        return self


class EngineSettings(Section):
    """Which engine computes, and what all engines have in common."""

    kind: Literal["auto", "cpu", "turbomind", "echo"] = "auto"
    """`cpu` runs PyTorch on the processor's cores, `turbomind` runs LMDeploy on NVIDIA GPUs, and `echo` runs
    no model and is for tests. `auto` takes `turbomind` where LMDeploy and an NVIDIA GPU are present and the
    model is not the bundled demo model, and `cpu` otherwise."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Data type of the arithmetic of the engine that runs: `float32` or `bfloat16` on the CPU, `float16` or
    `bfloat16` on GPUs. `auto` means the `dtype` in the section of the engine."""
    max_num_seqs: PositiveInt = 16
    """Maximum number of requests computed at the same time; more wait (`limits.queue_timeout_s`)."""
    stall_timeout_s: PositiveFloat = 30.0
    """Seconds without any progress of the engine after which all requests are ended with an error. One step
    of a large model on few cores may take longer than 30."""
    cpu: CpuSettings = CpuSettings()
    """Settings of the CPU engine."""
    turbomind: TurbomindSettings = TurbomindSettings()
    """Settings of the TurboMind engine."""
    echo: EchoSettings = EchoSettings()
    """Settings of the echo engine."""
