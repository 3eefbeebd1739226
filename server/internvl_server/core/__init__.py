"""The types that one stage of a request hands to the next.

Each type is named for what has been established when it exists: a `Conversation` is valid, an `ImageTiles`
is decoded and cut, a `Prompt` fits the context. They depend on no HTTP, file or engine. Every stage imports
them, and they import nothing else of this package.
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
    Thinking,
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
from internvl_server.core.prompt import (
    AnswerStart,
    ImageMeasure,
    ImageSpan,
    ImageTiles,
    PixelType,
    PixelValues,
    Prompt,
)
from internvl_server.core.video_urls import begins_like_video, is_video_url

__all__ = [
    "AnswerParams",
    "AnswerStart",
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
    "PixelType",
    "PixelValues",
    "Prompt",
    "Regex",
    "Role",
    "SamplingParams",
    "TextDelta",
    "TextLogprobs",
    "TextPart",
    "Thinking",
    "TokenDelta",
    "TokenLogprobs",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolCalls",
    "ToolChoice",
    "Usage",
    "VideoReference",
    "begins_like_video",
    "is_video_url",
]
