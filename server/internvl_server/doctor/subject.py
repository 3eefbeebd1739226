"""What the checks are about: the settings, the engine that follows from them, and the checkpoint."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from internvl_server.checkpoint.config import CheckpointConfig
from internvl_server.checkpoint.files import Checkpoint, find_folder, load_checkpoint
from internvl_server.engine.loader import choose_engine
from internvl_server.errors import StartupError
from internvl_server.planner.check import model_at
from internvl_server.settings import EngineSettings, Settings

__all__ = ["Subject"]


@dataclass(frozen=True)
class Subject:
    """Settings, and what can be known about them without starting anything.

    Attributes:
        settings: All sections; `engine` has a definite `kind`.
        reason: Why this engine was chosen.
        problem: Why none can be chosen; empty if one was.
    """

    settings: Settings
    reason: str = ""
    problem: str = ""

    @staticmethod
    def of(settings: Settings) -> "Subject":
        """Choose the engine as the server does."""
        try:
            engine, reason = choose_engine(settings)
        except StartupError as err:
            return Subject(settings, problem=err.message)
        return Subject(settings.model_copy(update={"engine": engine}), reason)

    @property
    def engine(self) -> EngineSettings:
        """Which engine runs, and how."""
        return self.settings.engine

    @cached_property
    def folder(self) -> Path | None:
        """The folder of the checkpoint; None if it is not on this machine."""
        try:
            return find_folder(self.settings.model)
        except StartupError:
            return None

    @cached_property
    def checkpoint(self) -> Checkpoint | None:
        """What the checkpoint's files say; None if they are not here, or cannot be read."""
        if self.folder is None:
            return None
        model = self.settings.model.model_copy(update={"path": str(self.folder)})
        try:
            return load_checkpoint(model)
        except StartupError:
            return None

    @cached_property
    def config(self) -> CheckpointConfig | None:
        """The checkpoint's config.json, or that of the published model with its name."""
        if self.checkpoint is not None:
            return self.checkpoint.config
        return None if self.folder is not None else model_at(self.settings.model.path)
