"""Pydantic AI with its model for OpenAI's chat completions."""

from typing import Annotated

from pydantic import Field
from pydantic_ai import Agent, BinaryContent, NativeOutput, RunContext, ToolDefinition, ToolOutput
from pydantic_ai.capabilities import PrepareOutputTools
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

from tests.conformance.clients.asking import (
    BASE_URL,
    CITY,
    HELLO,
    MODEL,
    PICTURE,
    QUESTION,
    SEEN,
    Shapes,
)

provider = OpenAIProvider(base_url=BASE_URL, api_key="none")
model = OpenAIChatModel(MODEL, provider=provider)
settings = ModelSettings(temperature=0, max_tokens=256)
LOOK = [BinaryContent(PICTURE, media_type="image/jpeg"), QUESTION]


async def test_text() -> None:
    result = await Agent(model, model_settings=settings).run(HELLO)
    assert result.output


async def test_stream() -> None:
    agent = Agent(model, model_settings=settings)
    async with agent.run_stream(HELLO) as stream:
        text = "".join([piece async for piece in stream.stream_text(delta=True)])
    assert text == (await agent.run(HELLO)).output


async def test_picture() -> None:
    result = await Agent(model, model_settings=settings).run(LOOK)
    assert SEEN in result.output


async def test_object() -> None:
    for kind in (NativeOutput, ToolOutput):
        result = await Agent(model, output_type=kind(Shapes), model_settings=settings).run(LOOK)
        assert isinstance(result.output, Shapes), kind


async def test_tools() -> None:
    """The first step calls the tool, the second gives an object."""
    called: list[int] = []

    async def after_the_tool(
        ctx: RunContext[None], tools: list[ToolDefinition]
    ) -> list[ToolDefinition]:
        return tools if ctx.run_step > 1 else []

    agent = Agent(
        model,
        output_type=ToolOutput(Shapes),
        model_settings=settings,
        capabilities=[PrepareOutputTools(after_the_tool)],
    )

    @agent.tool_plain
    def find_city(zip: Annotated[int, Field(ge=10, le=99)]) -> str:
        """The city with a zip code."""
        called.append(zip)
        return "Berlin"

    result = await agent.run(CITY)
    assert called
    assert isinstance(result.output, Shapes)
