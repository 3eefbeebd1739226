"""The order of the stages: from a conversation to a running generation, and from its tokens to text.

The only package that knows more than one stage. `prepare.py` does everything that can refuse a request;
`generation.py` is what is left to do after the answer's first byte may have been sent.
"""

from internvl_server.pipeline.answers import PipelineVocabulary
from internvl_server.pipeline.capabilities import check_capabilities
from internvl_server.pipeline.generation import Choice, Generation
from internvl_server.pipeline.measure import Measurement, PromptCounter
from internvl_server.pipeline.prepare import Pipeline
from internvl_server.pipeline.prompts import prepare_prompts

__all__ = [
    "Choice",
    "Generation",
    "Measurement",
    "Pipeline",
    "PipelineVocabulary",
    "PromptCounter",
    "check_capabilities",
    "prepare_prompts",
]
