"""Several prompts of one request: each is prepared by itself, their answers are one stream."""

from collections.abc import Sequence
from contextlib import AsyncExitStack

from internvl_server.core import AnswerParams, SamplingParams
from internvl_server.errors import Field, InvalidRequestError
from internvl_server.pipeline.generation import Generation
from internvl_server.pipeline.prepare import Pipeline

__all__ = ["prepare_prompts"]


async def prepare_prompts(
    pipeline: Pipeline,
    request_id: str,
    prompts: Sequence[str | Sequence[int]],
    sampling: SamplingParams,
    answer: AnswerParams,
    owner: AsyncExitStack,
) -> Generation:
    """Hand all prompts to the engine; choice i of prompt p has the index p times `num_choices` plus i.

    Args:
        pipeline: Prepares each.
        request_id: Names the request in log lines.
        prompts: Literal text or token ids, at least one.
        sampling: How, for all of them.
        answer: How often each, and what is shown.
        owner: Closing it aborts all and frees what they hold.

    Raises:
        InvalidRequestError: One prompt cannot be served; `param` says which.
        EngineUnavailableError: The engine is not running.
    """
    generations: list[Generation] = []
    for index, prompt in enumerate(prompts):
        try:
            generations.append(
                await pipeline.prepare_raw(f"{request_id}.{index}", prompt, sampling, answer, owner)
            )
        except InvalidRequestError as error:
            if error.param is Field.PROMPT and len(prompts) > 1:
                error.param = (Field.PROMPT, f"[{index}]")
            raise
    joined = Generation.joined(generations)
    owner.push_async_callback(joined.aclose)
    return joined
