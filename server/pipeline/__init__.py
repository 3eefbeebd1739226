"""The order of the stages: from a conversation to a running generation, and from its tokens to text.

The only package that knows more than one stage. `prepare.py` does everything that can refuse a request;
`generation.py` is what is left to do after the answer's first byte may have been sent.
"""

from server.pipeline.answers import Vocabulary
from server.pipeline.capabilities import check_capabilities
from server.pipeline.generation import Choice, Generation
from server.pipeline.measure import Measurement, PromptMeter
from server.pipeline.prepare import ChatPipeline
from server.pipeline.prompts import prepare_prompts
from server.pipeline.tile_gate import TileGate

__all__ = [
    "ChatPipeline",
    "Choice",
    "Generation",
    "Measurement",
    "PromptMeter",
    "TileGate",
    "Vocabulary",
    "check_capabilities",
    "prepare_prompts",
]
