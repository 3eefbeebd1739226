"""Compares finished answers with the client's schemas, where the engine does not enforce all of them.

What was streamed cannot be taken back. The last character of strict JSON is therefore held back until the
rest has been checked, so that no client can parse an answer that is refused.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from internvl_server.concurrency.jobs import JobLimitError, JobProcesses
from internvl_server.core import (
    Constraint,
    JsonSchema,
    TextDelta,
    TextLogprobs,
    ToolCallDelta,
    ToolCalls,
)
from internvl_server.engine.guided import CHECKER
from internvl_server.errors import EngineError, EngineOverloadedError, EngineUnavailableError

__all__ = ["CheckedAnswer", "SchemaChecker"]

_log = logging.getLogger(__name__)

_LIMIT_S = 2.0
_UNCHECKED = "The answer could not be compared with the schema: that takes too much time or memory."
# Without its last character, JSON of these kinds is incomplete.
_BRACKETED = re.compile(r"\s*[{\[\"]")
_LAST = re.compile(r"\S?\s*\Z")


class SchemaChecker:
    """Compares JSON with schemas in other processes, so that no schema can block the server."""

    def __init__(self) -> None:
        self._processes = JobProcesses(CHECKER, limit_s=_LIMIT_S)

    async def violation(self, text: str, schema: Mapping[str, Any]) -> str:
        """Say how a JSON text violates a schema, or that it could not be compared; empty if it fits."""
        try:
            answer = await self._processes.run([text, schema])
        except (JobLimitError, EngineOverloadedError, EngineUnavailableError):
            return _UNCHECKED
        except EngineError:
            _log.exception("Comparing an answer with its schema failed.")
            return _UNCHECKED
        return answer["violation"] or ""

    async def close(self) -> None:
        """End the processes."""
        await self._processes.close()


@dataclass(slots=True)
class _Document:
    """JSON that is being written, and the end of it that is held back."""

    schema: Mapping[str, Any]
    is_strict: bool
    text: str = ""
    held: str = ""

    def add(self, text: str) -> str:
        """Add text; returns what can be shown."""
        self.text += text
        if not self.is_strict:
            return text
        shown = self.held + text
        last = _LAST.search(shown) if _BRACKETED.match(self.text) else None
        end = last.start() if last else 0
        self.held = shown[end:]
        return shown[:end]

    def release(self) -> str:
        """The text that was held back."""
        held, self.held = self.held, ""
        return held


class CheckedAnswer:
    """Passes on the deltas of one answer, and checks each of its documents at its end.

    Args:
        constraint: What the answer was generated under.
        checker: Compares documents with schemas.
    """

    def __init__(self, constraint: Constraint, checker: SchemaChecker) -> None:
        self._checker = checker
        self._text = _text_document(constraint)
        self._tools = (
            {tool.name: tool for tool in constraint.tools}
            if isinstance(constraint, ToolCalls)
            else {}
        )
        self._call: _Document | None = None
        self._index = -1
        self._violation = ""
        self._logprobs: tuple[TextLogprobs, ...] = ()  # of text that is held back

    async def push_all(self, deltas: Sequence[TextDelta]) -> list[TextDelta]:
        """As `push`, up to a refusal."""
        made: list[TextDelta] = []
        for delta in deltas:
            made.append(await self.push(delta))
            if made[-1].finish_reason is not None:
                break
        return made

    async def push(self, delta: TextDelta) -> TextDelta:
        """The delta without what is held back. The last one may be a refusal."""
        pieces: list[ToolCallDelta] = []
        for piece in delta.tool_calls:
            if piece.index != self._index:
                if refusal := await self._check(self._call):
                    return self._refused(delta, refusal)
                pieces += self._released()
                tool = self._tools[str(piece.name)]
                self._call = _Document(tool.parameters, tool.is_strict)
                self._index = piece.index
            assert self._call is not None
            pieces.append(replace(piece, arguments=self._call.add(piece.arguments)))
        text = self._text.add(delta.text) if self._text else delta.text
        if delta.finish_reason is not None:
            for document in (self._call, self._text):
                if refusal := await self._check(document):
                    return self._refused(delta, refusal)
            pieces += self._released()
            text += self._text.release() if self._text else ""
        is_last = delta.finish_reason is not None
        violation = self._violation if is_last else ""
        logprobs = self._shown_logprobs(delta, is_shown=bool(text or pieces or is_last))
        return replace(
            delta, text=text, tool_calls=tuple(pieces), violation=violation, logprobs=logprobs
        )

    async def _check(self, document: _Document | None) -> str:
        """Why the answer is refused; a violation that must only be named is kept for the last delta."""
        if document is None or not document.text:
            return ""
        violation = await self._checker.violation(document.text, document.schema)
        if document.is_strict:
            return violation
        self._violation = self._violation or violation
        return ""

    def _released(self) -> Iterator[ToolCallDelta]:
        if self._call is not None and (held := self._call.release()):
            yield ToolCallDelta(self._index, arguments=held)

    def _shown_logprobs(self, delta: TextDelta, *, is_shown: bool) -> tuple[TextLogprobs, ...]:
        """Those that were kept and the delta's; they are kept while nothing is shown."""
        logprobs = self._logprobs + delta.logprobs
        self._logprobs = () if is_shown else logprobs
        return logprobs if is_shown else ()

    def _refused(self, delta: TextDelta, refusal: str) -> TextDelta:
        return replace(
            delta, text="", tool_calls=(), logprobs=(), finish_reason="stop", refusal=refusal
        )


def _text_document(constraint: Constraint) -> _Document | None:
    if isinstance(constraint, JsonSchema):
        return _Document(constraint.schema, constraint.is_strict)
    if isinstance(constraint, ToolCalls) and constraint.answer is not None:
        return _Document(constraint.answer, constraint.is_strict)
    return None
