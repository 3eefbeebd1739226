"""The whole model. `layouts.py` maps the names of its parameters to those of stored tensors."""

from torch import nn

from internvl_server.checkpoint.config import CheckpointConfig
from internvl_server.engine.cpu.model.decoder import Decoder
from internvl_server.engine.cpu.model.vision import VisionEncoder

__all__ = ["InternVL"]


class InternVL(nn.Module):
    """A vision encoder and a text decoder that read the same embeddings.

    `num_parameters` counts the weights as the config describes them, however they are stored.
    """

    def __init__(self, config: CheckpointConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = VisionEncoder(config)
        self.decoder = Decoder(config.text)
        self.num_parameters = sum(parameter.numel() for parameter in self.parameters())
