"""The order of the stages: from a conversation to a running generation, and from its tokens to text.

The only package that imports several stages. `prepare.py` does everything that can refuse a request;
`generation.py` is what remains to be done after the first byte of the answer may have been sent.
"""

from internvl_server.pipeline.budgets import Budgets
from internvl_server.pipeline.generation import Generation
from internvl_server.pipeline.lengths import Lengths
from internvl_server.pipeline.measure import Measurement, PromptCounter
from internvl_server.pipeline.prepare import Pipeline

__all__ = ["Budgets", "Generation", "Lengths", "Measurement", "Pipeline", "PromptCounter"]
