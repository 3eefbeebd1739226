"""Synthetic prompts: texts of exact lengths, shared beginnings, pictures and videos."""

from dataclasses import dataclass, field

import numpy as np

from internvl_server.bench.datasets.base import Prompt
from internvl_server.bench.datasets.counting import TokenCounter
from internvl_server.bench.datasets.lengths import Lengths
from internvl_server.bench.datasets.media import MediaMaker
from internvl_server.bench.datasets.words import TextMaker

__all__ = ["Synthetic"]


@dataclass(frozen=True)
class Synthetic:
    """What synthetic prompts are like.

    Attributes:
        input_lengths: Tokens of the text of a prompt, without its shared beginning.
        output_lengths: Tokens of answers.
        num_prefixes: How many shared beginnings there are; prompts take them in turn.
        prefix_tokens: Tokens of each, sent as the system text.
        media: Makes pictures and videos.
    """

    input_lengths: Lengths
    output_lengths: Lengths
    num_prefixes: int = 0
    prefix_tokens: int = 0
    media: MediaMaker = field(default_factory=MediaMaker)

    async def prompts(self, number: int, counter: TokenCounter, seed: int) -> list[Prompt]:
        """So many prompts; the same seed makes the same.

        Raises:
            DatasetError: The server cannot count tokens any more.
        """
        rng = np.random.default_rng(seed)
        maker = TextMaker(counter)
        num_groups = self.num_prefixes if self.prefix_tokens else 0
        prefixes = [await maker.text(self.prefix_tokens, rng) for _ in range(num_groups)]
        made = []
        for index in range(number):
            text, num_tokens = await maker.text(self.input_lengths.sample(rng), rng)
            group = index % num_groups if num_groups else None
            prefix, num_shared = prefixes[group] if group is not None else ("", 0)
            made.append(
                Prompt(
                    text, prefix, self.media.parts(rng),
                    max_tokens=self.output_lengths.sample(rng),
                    num_tokens=num_tokens + num_shared, group=group,
                )
            )  # fmt: skip
        return made
