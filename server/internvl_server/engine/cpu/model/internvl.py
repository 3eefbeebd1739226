"""The whole model. Its parameters carry the canonical names that `layouts.py` maps from."""

from torch import nn

from internvl_server.engine.cpu.model.config import ModelConfig
from internvl_server.engine.cpu.model.decoder import Decoder
from internvl_server.engine.cpu.model.vision import VisionEncoder

__all__ = ["InternVL"]


class InternVL(nn.Module):
    """A vision encoder and a text decoder that read the same embeddings."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = VisionEncoder(config)
        self.decoder = Decoder(config.decoder)
