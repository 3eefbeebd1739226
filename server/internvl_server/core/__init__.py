"""The nouns of the system: what one stage of a request hands to the next.

Each type is named for what has been established when it exists: a `Conversation` is valid and in our
words, an `ImageTiles` is decoded and cut, a `Prompt` fits the context. They know no HTTP, no files and
no engine; every stage imports them and they import nothing of ours.
"""

from internvl_server.core.answer import (
    AnswerParams,
    ImageUsage,
    LogprobToken,
    TextDelta,
    TextLogprobs,
    ToolCallDelta,
    Usage,
)
from internvl_server.core.constraints import (
    CallableTool,
    Constraint,
    Grammar,
    JsonSchema,
    Regex,
    ToolCalls,
)
from internvl_server.core.conversation import (
    Content,
    Conversation,
    Detail,
    FrameList,
    ImageReference,
    MediaPart,
    Message,
    Part,
    Role,
    TextPart,
    Tool,
    ToolCall,
    ToolChoice,
    VideoReference,
)
from internvl_server.core.generation import (
    FinishReason,
    GenerateRequest,
    SamplingParams,
    TokenDelta,
    TokenLogprobs,
)
from internvl_server.core.prompt import ImageMeasure, ImageSpan, ImageTiles, PixelValues, Prompt

__all__ = [
    "AnswerParams",
    "CallableTool",
    "Constraint",
    "Content",
    "Conversation",
    "Detail",
    "FinishReason",
    "FrameList",
    "GenerateRequest",
    "Grammar",
    "ImageMeasure",
    "ImageReference",
    "ImageSpan",
    "ImageTiles",
    "ImageUsage",
    "JsonSchema",
    "LogprobToken",
    "MediaPart",
    "Message",
    "Part",
    "PixelValues",
    "Prompt",
    "Regex",
    "Role",
    "SamplingParams",
    "TextDelta",
    "TextLogprobs",
    "TextPart",
    "TokenDelta",
    "TokenLogprobs",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolCalls",
    "ToolChoice",
    "Usage",
    "VideoReference",
]
