"""The order of the stages: from a conversation to a running generation, and from its tokens to text.

The only module that knows more than one stage. `ChatPipeline.prepare` does everything that can refuse a
request; a `Generation` is what is left to do after the answer's first byte may have been sent.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace

from server.core import (
    Conversation,
    FinishReason,
    GenerateRequest,
    PixelValues,
    Prompt,
    SamplingParams,
    TextDelta,
    TokenDelta,
    Usage,
)
from server.engine.base import Capability, Engine
from server.errors import EngineOverloadedError, EngineUnavailableError, UnsupportedParameterError
from server.media.pixels import to_pixel_values
from server.media.preparer import MediaPreparer
from server.output.detokenizer import Detokenizer, DetokenizerFactory
from server.output.stop import StopMatcher
from server.prompt.builder import Outline, PromptBuilder
from server.settings import LimitSettings

__all__ = ["ChatPipeline", "Generation", "TileGate"]

# Texts up to this length tokenise in well under a millisecond: not worth a thread.
_MAX_CHARS_ON_LOOP = 8192


class ChatPipeline:
    """Everything between a validated conversation and an engine.

    Args:
        media: Fetches and tiles images.
        builder: Writes prompts.
        engine: Generates tokens.
        new_detokenizer: Makes the detokenizer of one answer.
        limits: The default length of an answer, and how many tiles may be in flight.
    """

    def __init__(
        self,
        *,
        media: MediaPreparer,
        builder: PromptBuilder,
        engine: Engine,
        new_detokenizer: DetokenizerFactory,
        limits: LimitSettings,
    ) -> None:
        self._media = media
        self._builder = builder
        self._engine = engine
        self._new_detokenizer = new_detokenizer
        self._default_max_tokens = limits.default_max_tokens
        self._tile_gate = TileGate(limits.max_tiles_in_flight)

    async def prepare(
        self,
        request_id: str,
        conversation: Conversation,
        sampling: SamplingParams,
        owner: AsyncExitStack,
    ) -> "Generation":
        """Do all that can refuse the request and hand it to the engine.

        Args:
            request_id: Key of the request across stages.
            conversation: What to answer.
            sampling: How.
            owner: Closing it aborts the generation and frees what it holds.

        Raises:
            InvalidRequestError: The request cannot be served; says which part and why.
            EngineUnavailableError: The engine is not running.
        """
        self._refuse_when_not_ready()
        self._refuse_unsupported(conversation, sampling)
        self._builder.check_length_of_text(conversation)
        prompt = await self._build(conversation, sampling)
        max_tokens = self._builder.max_tokens_for(
            prompt, sampling.max_tokens, self._default_max_tokens
        )
        request = GenerateRequest(
            request_id=request_id,
            prompt_token_ids=prompt.token_ids,
            max_tokens=max_tokens,
            sampling=sampling,
            stop_token_ids=self._builder.stop_token_ids,
            images=prompt.images,
            pixel_values=await self._pixels(prompt, owner),
        )
        tokens = await owner.enter_async_context(self._engine.generate(request))
        # From here on only counts: the tiles are large and an answer may take minutes.
        usage = Usage(
            num_prompt_tokens=prompt.num_tokens,
            num_completion_tokens=0,
            num_image_tokens=sum(span.num_image_tokens for span in prompt.images),
        )
        return Generation(
            usage, tokens, self._new_detokenizer(), await _stop_matcher(sampling.stop)
        )

    async def _build(self, conversation: Conversation, sampling: SamplingParams) -> Prompt:
        outline = await self._outline(conversation)
        if not conversation.images:
            return self._builder.build(outline, ())
        tiles = await self._media.prepare(
            conversation.images,
            max_image_tokens=self._builder.max_image_tokens(
                outline, sampling.max_tokens, self._default_max_tokens
            ),
        )
        return self._builder.build(outline, tiles)

    async def _outline(self, conversation: Conversation) -> Outline:
        if conversation.num_text_chars <= _MAX_CHARS_ON_LOOP:
            return self._builder.outline(conversation)
        return await asyncio.to_thread(self._builder.outline, conversation)

    async def _pixels(self, prompt: Prompt, owner: AsyncExitStack) -> PixelValues | None:
        if not prompt.tiles:
            return None
        owner.enter_context(self._tile_gate.hold(sum(t.num_tiles for t in prompt.tiles)))
        return await asyncio.to_thread(to_pixel_values, prompt.tiles)

    def _refuse_when_not_ready(self) -> None:
        """Before pictures are fetched and decoded for nothing."""
        health = self._engine.health()
        if not health.is_ready:
            raise EngineUnavailableError(f"{health.reason} Try again shortly.")

    def _refuse_unsupported(self, conversation: Conversation, sampling: SamplingParams) -> None:
        asked = {
            Capability.TOP_K: sampling.top_k > 0,
            Capability.MIN_P: sampling.min_p > 0,
            Capability.REPETITION_PENALTY: sampling.repetition_penalty != 1,
            Capability.SEED: sampling.seed is not None,
            Capability.IMAGES: bool(conversation.images),
            Capability.LOGPROBS: sampling.num_logprobs is not None,
            Capability.GUIDE: sampling.guide is not None,
        }
        for capability, is_asked in asked.items():
            if is_asked and capability not in self._engine.info.capabilities:
                raise UnsupportedParameterError(
                    f"'{capability}' is not supported by the {self._engine.info.backend} engine. "
                    "Leave it out.",
                    param=capability.value,
                )


class TileGate:
    """Bounds the memory that pixels take while requests wait for the engine and run.

    Args:
        max_tiles: Most tiles of all requests together.
    """

    def __init__(self, max_tiles: int) -> None:
        self._max_tiles = max_tiles
        self.num_tiles = 0

    @contextmanager
    def hold(self, num_tiles: int) -> Iterator[None]:
        """Count tiles while the context lasts.

        Raises:
            EngineOverloadedError: There are too many in flight.
        """
        if self.num_tiles and self.num_tiles + num_tiles > self._max_tiles:
            raise EngineOverloadedError(
                f"The server is busy with {self.num_tiles} tiles of pictures. Try again shortly."
            )
        self.num_tiles += num_tiles
        try:
            yield
        finally:
            self.num_tiles -= num_tiles


class Generation:
    """One accepted request while its answer is generated. Its owner's stack holds the resources.

    Args:
        usage: What the prompt took.
        tokens: The engine's stream.
        detokenizer: Of this answer.
        stop: Of this answer.
    """

    def __init__(
        self,
        usage: Usage,
        tokens: AsyncIterator[TokenDelta],
        detokenizer: Detokenizer,
        stop: StopMatcher,
    ) -> None:
        self._usage = usage
        self._tokens = tokens
        self._detokenizer = detokenizer
        self._stop = stop
        self._num_completion_tokens = 0

    async def deltas(self) -> AsyncIterator[TextDelta]:
        """Text as it becomes certain; the last delta has `finish_reason` and `usage`.

        Raises:
            EngineError: The engine failed.
        """
        async for delta in self._tokens:
            text = self._text_of(delta)
            if self._stop.is_stopped:
                yield self._last(text, "stop")
                return
            if delta.finish_reason is not None:
                yield self._finish(text, delta.finish_reason)
                return
            if text:
                yield TextDelta(text)

    async def complete(self) -> TextDelta:
        """The whole answer as one delta.

        Raises:
            EngineError: The engine failed.
        """
        text = ""
        last = TextDelta("")
        async for last in self.deltas():
            text += last.text
        return TextDelta(text, last.finish_reason, last.usage)

    def _text_of(self, delta: TokenDelta) -> str:
        """The delta's certain text; tokens after a stop string are neither shown nor counted.

        A reader slower than the engine gets several tokens at once: they are looked at one by one when
        there are stop strings, so that the count does not depend on timing.
        """
        if not self._stop.is_active:
            self._num_completion_tokens += len(delta.token_ids)
            return self._detokenizer.push(delta.token_ids)
        text = ""
        for token_id in delta.token_ids:
            self._num_completion_tokens += 1
            text += self._stop.push(self._detokenizer.push((token_id,)))
            if self._stop.is_stopped:
                break
        return text

    def _finish(self, text: str, reason: FinishReason) -> TextDelta:
        """The engine is done: what was held back is certain now, unless it is a stop string."""
        text += self._stop.push(self._detokenizer.flush())
        if self._stop.is_stopped:
            return self._last(text, "stop")
        return self._last(text + self._stop.flush(), reason)

    def _last(self, text: str, reason: FinishReason) -> TextDelta:
        usage = replace(self._usage, num_completion_tokens=self._num_completion_tokens)
        return TextDelta(text, reason, usage)


async def _stop_matcher(stops: Sequence[str]) -> StopMatcher:
    if sum(map(len, stops)) <= _MAX_CHARS_ON_LOOP:
        return StopMatcher(stops)
    return await asyncio.to_thread(StopMatcher, stops)
