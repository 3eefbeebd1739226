"""LangChain's `ChatOpenAI`."""

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from tests.conformance.clients.asking import (
    BASE_URL,
    CITY,
    HELLO,
    MODEL,
    PICTURE_BASE64,
    QUESTION,
    SEEN,
    City,
    Shapes,
    look,
)

model = ChatOpenAI(
    base_url=BASE_URL, api_key="none", model=MODEL, temperature=0, max_tokens=256, max_retries=0,
    stream_usage=True,
)  # fmt: skip


@tool(args_schema=City)
def find_city(zip: int) -> str:
    """The city with a zip code."""
    return f"Berlin {zip}"


def test_text() -> None:
    answer = model.invoke(HELLO)
    assert answer.text
    assert answer.usage_metadata["output_tokens"] > 0


def test_stream() -> None:
    chunks = list(model.stream(HELLO))
    assert "".join(chunk.text for chunk in chunks) == model.invoke(HELLO).text
    assert sum(c.usage_metadata["output_tokens"] for c in chunks if c.usage_metadata) > 0


def test_picture() -> None:
    """In OpenAI's form and in LangChain's own."""
    assert SEEN in model.invoke(look()).text
    image = {"type": "image", "base64": PICTURE_BASE64, "mime_type": "image/jpeg"}
    message = HumanMessage(content=[image, {"type": "text", "text": QUESTION}])
    assert SEEN in model.invoke([message]).text


def test_object() -> None:
    for method in ("json_schema", "function_calling"):
        answer = model.with_structured_output(Shapes, method=method).invoke(look())
        assert isinstance(answer, Shapes), method


def test_tools() -> None:
    # Strict, because the demo model would add properties for ever where the schema allows them.
    first = model.bind_tools([find_city], tool_choice="any", strict=True).invoke(CITY)
    assert first.tool_calls
    results = [find_city.invoke(call) for call in first.tool_calls]
    assert all(isinstance(result, ToolMessage) for result in results)
    bound = model.bind_tools([find_city], tool_choice="none")
    assert bound.invoke([HumanMessage(CITY), first, *results]).text
