"""The `model` section: the checkpoint and its prompts."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from internvl_server.settings.section import Section

__all__ = ["DEMO_MODEL", "ModelSettings", "SamplingDefaults"]

DEMO_MODEL = Path(__file__).parents[1] / "demo_model"


class SamplingDefaults(Section):
    """Values of sampling fields that a request leaves out or sends as null."""

    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    """Default of `temperature`; OpenAI's is 1."""
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Default of `top_p`; OpenAI's is 1."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Default of `top_k`; 0 means no limit, as at OpenAI. LMDeploy's own is 50: TurboMind then sorts less at
    every step. A request for log probabilities may then need more memory."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Default of `min_p`; 0 has no effect."""
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Default of `repetition_penalty`; 1 has no effect."""


class ModelSettings(Section):
    """Which checkpoint is served, and how prompts are written for it."""

    path: str = str(DEMO_MODEL)
    """Folder of a checkpoint, or the name of a repository on the Hugging Face hub."""
    served_name: str = ""
    """Name clients use in `model`; empty means the `served_name` in the checkpoint's config, or the last part
    of `path`."""
    accept_any_name: bool = False
    """Accept any `model` in a request, for clients whose model name cannot be changed."""
    revision: str = ""
    """Branch, tag or commit on the hub; empty means the default branch."""
    download_dir: str = ""
    """Folder that downloads from the hub are kept in; empty means the cache of the hub library."""
    template: Literal["", "internvl2_5", "checkpoint"] = ""
    """Prompt template: `internvl2_5`, or `checkpoint` for the chat template of the checkpoint. Empty means
    the `template` in the checkpoint's config, or `internvl2_5`."""
    thinking: Literal["auto", "on", "off"] = "auto"
    """Reasoning before the answer, for checkpoints with the tokens `<think>` and `</think>`, such as
    InternVL3.5. `auto`: if the request asks for it. `on`: unless the request declines it. `off`: never, and
    requests for it are refused."""
    max_model_len: Annotated[int, Field(ge=0)] = 0
    """Maximum length of prompt and answer together, in tokens; 0 means the context length of the
    checkpoint."""
    default_sampling: SamplingDefaults = SamplingDefaults()
    """Sampling of requests that do not say."""
