"""The settings of the checkpoint and its prompts."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from internvl_server.settings.section import Section

__all__ = ["DEMO_MODEL", "ModelSettings"]

DEMO_MODEL = Path(__file__).parents[1] / "demo_model"


class ModelSettings(Section):
    """Which checkpoint is served and how prompts are written for it."""

    path: str = str(DEMO_MODEL)
    """Folder of a checkpoint, or a hub repository name. Default: the bundled demo model."""
    served_name: str = ""
    """Name clients use in `model`; empty means the `served_name` of the checkpoint"s config, else the
    last part of `path`."""
    accept_any_name: bool = False
    """Answer whatever name a request has in `model`, for clients whose name cannot be changed."""
    revision: str = ""
    """Hub revision; empty means the default branch."""
    download_dir: str = ""
    """Where hub checkpoints are kept; empty means the hub library"s own cache."""
    template: Literal["", "internvl2_5", "checkpoint"] = ""
    """Prompt template: `internvl2_5`, or `checkpoint` for the checkpoint"s own chat template. Empty
    means the `template` of the checkpoint"s config, else `internvl2_5`."""
    max_model_len: Annotated[int, Field(ge=0)] = 0
    """Context limit in tokens, prompt and answer together; 0 means the checkpoint"s own."""
