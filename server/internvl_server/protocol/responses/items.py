"""The wire objects of the input items of `/v1/responses` and of their content parts.

Names of union branches begin with `~`, which keeps them out of the JSON paths of errors.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag

from internvl_server.protocol.fields import Foreign
from internvl_server.protocol.fields.foreign import TILES
from internvl_server.protocol.tools import CallArguments
from internvl_server.protocol.wire import ImageDetail, MaxTiles, TextOr, Wire, discriminate_by_type

__all__ = [
    "AnswerPart",
    "AssistantItem",
    "FunctionCallItem",
    "FunctionCallOutputItem",
    "InputContent",
    "InputImage",
    "InputItem",
    "InputPart",
    "InputText",
    "MessageItem",
    "OutputText",
    "ReasoningItem",
    "Refusal",
]

# Records of the API about an item, which do not change the conversation.
Status: TypeAlias = Literal["in_progress", "completed", "incomplete"]
Phase: TypeAlias = Literal["commentary", "final_answer"]


class CacheBreakpoint(Wire):
    """A hint for a provider's cache."""

    mode: Literal["explicit"]
    ttl: Literal["30m", "12h"] | None = None


class InputText(Wire):
    """Text of the user, or of instructions."""

    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class InputImage(Wire):
    """An image."""

    foreign: ClassVar[Mapping[str, Foreign]] = TILES

    type: Literal["input_image"]
    image_url: Annotated[str, Field(min_length=1)]
    detail: ImageDetail = None
    max_tiles: MaxTiles | None = None
    """Maximum number of tiles of the image, overriding `detail`: an extension of this server."""
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class OutputText(Wire):
    """Text of an earlier answer. Annotations and log probabilities are accepted and not used."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class Refusal(Wire):
    """An earlier answer that refused."""

    type: Literal["refusal"]
    refusal: str


InputPart: TypeAlias = Annotated[
    Annotated[InputText, Tag("~input_text")] | Annotated[InputImage, Tag("~input_image")],
    discriminate_by_type("input_text", "input_image"),
]
InputContent: TypeAlias = TextOr[list[InputPart]]
AnswerPart: TypeAlias = Annotated[
    Annotated[OutputText, Tag("~output_text")]
    | Annotated[Refusal, Tag("~refusal")]
    | Annotated[InputText, Tag("~input_text")]
    | Annotated[InputImage, Tag("~input_image")],
    discriminate_by_type("output_text", "refusal", "input_text", "input_image"),
]
AnswerContent: TypeAlias = TextOr[list[AnswerPart]]


class _Item(Wire):
    """The members of every item: its id in the API's records, and its state."""

    id: str | None = None
    status: Status | None = None


class MessageItem(_Item):
    """A message of the user, or instructions; `developer` is the newer name of `system`."""

    type: Literal["message"] | None = None
    role: Literal["user", "system", "developer"]
    content: InputContent
    phase: Phase | None = None


class AssistantItem(_Item):
    """An earlier answer, which may be empty."""

    type: Literal["message"] | None = None
    role: Literal["assistant"]
    content: AnswerContent = ""
    phase: Phase | None = None


class DirectCaller(Wire):
    """The model itself called the tool."""

    type: Literal["direct"]


class FunctionCallItem(_Item):
    """A tool call of an earlier answer, as the model wrote it."""

    type: Literal["function_call"]
    call_id: str = ""
    name: str
    arguments: CallArguments | None = None
    caller: DirectCaller | None = None


class FunctionCallOutputItem(_Item):
    """The result of a tool."""

    type: Literal["function_call_output"]
    call_id: str = ""
    output: InputContent = ""
    name: str | None = None
    caller: DirectCaller | None = None


class ReasoningItem(_Item):
    """Earlier reasoning, which the model does not see again."""

    foreign: ClassVar[Mapping[str, Foreign]] = {
        "content": Foreign(is_known=True),
        "encrypted_content": Foreign(is_known=True),
        "summary": Foreign(is_known=True),
    }

    type: Literal["reasoning"]


def _branch_of_item(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    if not isinstance(value, dict):
        return "~"
    kind, role = value.get("type", "message"), value.get("role")
    if kind != "message":
        return f"~{kind}"
    return "~message" if role in ("user", "system", "developer") else f"~{role}"


InputItem: TypeAlias = Annotated[
    Annotated[MessageItem, Tag("~message")]
    | Annotated[AssistantItem, Tag("~assistant")]
    | Annotated[FunctionCallItem, Tag("~function_call")]
    | Annotated[FunctionCallOutputItem, Tag("~function_call_output")]
    | Annotated[ReasoningItem, Tag("~reasoning")],
    Discriminator(
        _branch_of_item,
        custom_error_type="item_type",
        custom_error_message=(
            "It must be an object whose 'type' is 'function_call', 'function_call_output' or "
            "'message', the latter with a 'role' of 'user', 'assistant', 'system' or 'developer'"
        ),
    ),
]
