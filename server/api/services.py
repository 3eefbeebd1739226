"""What the routes work with: wired once in `app.py`, kept on the app's state."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from server.api.admission import AdmissionGate
from server.checkpoint import Checkpoint
from server.engine.base import Engine
from server.errors import ModelNotFoundError
from server.pipeline import ChatPipeline, PromptMeter
from server.self_check import SelfCheck
from server.settings import Settings

__all__ = ["Services", "ServicesDep"]


@dataclass(frozen=True, slots=True)
class Services:
    """The finished collaborators of the edge. `created` is the process's start, Unix seconds."""

    settings: Settings
    checkpoint: Checkpoint
    engine: Engine
    chat: ChatPipeline
    meter: PromptMeter
    gate: AdmissionGate
    self_check: SelfCheck
    fingerprint: str
    created: int

    def check_model(self, name: str) -> None:
        """Refuse a model that is not the served one.

        Raises:
            ModelNotFoundError: With the name that is served.
        """
        served = self.checkpoint.served_name
        if name != served and not self.settings.model.accept_any_name:
            raise ModelNotFoundError(
                f"The model '{name[:128]}' does not exist here; this server has '{served}'.",
                param="model",
            )


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]
