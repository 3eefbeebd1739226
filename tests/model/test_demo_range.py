"""InternVL's range through the API, answered truthfully by the bundled model: several pictures, several
rounds, a video of a moving shape, and an extraction held to a schema."""

from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from internvl_server.settings import Settings
from pydantic import BaseModel, ConfigDict

from tests.live_server import LiveServer
from tests.model.frozen_exam import CONTENT, Task, data_url, image_part, messages

pytestmark = pytest.mark.model

MODEL = "internvl-demo"


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with LiveServer(Settings()) as server:
        yield server.client()


def say(client: openai.OpenAI, conversation: list[Any]) -> str:
    answer = client.chat.completions.create(
        model=MODEL, messages=conversation, temperature=0, max_tokens=96
    )
    return answer.choices[0].message.content or ""


def test_which_of_several_pictures(client: openai.OpenAI) -> None:
    tasks = [Task(**record) for record in CONTENT["which_range"]]
    assert len(tasks) == 10
    assert sum(say(client, messages(task)) == task.answer for task in tasks) >= 8


def test_three_rounds(client: openai.OpenAI) -> None:
    right = 0
    assert len(CONTENT["rounds"]) == 6
    for record in CONTENT["rounds"]:
        *earlier, last = record["questions"]
        conversation: list[Any] = []
        for number, question in enumerate(earlier):
            picture = [image_part(record["image"])] if number == 0 else []
            text = {"type": "text", "text": question}
            conversation.append({"role": "user", "content": [*picture, text]})
            answer = say(client, conversation)
            conversation.append({"role": "assistant", "content": answer})
        conversation.append({"role": "user", "content": last})
        right += say(client, conversation) == record["last_answer"]
    assert right >= 5


@pytest.mark.parametrize("num_frames", [None, 4])
def test_a_video_of_a_moving_shape(client: openai.OpenAI, num_frames: int | None) -> None:
    right = 0
    assert len(CONTENT["videos"]) == 4
    for record in CONTENT["videos"]:
        video = {"url": data_url(record["video"])}
        options = {"num_frames": num_frames} if num_frames else {}
        parts = [
            {"type": "video_url", "video_url": video | options},
            {"type": "text", "text": record["question"]},
        ]
        right += say(client, [{"role": "user", "content": parts}]) == record["answer"]
    assert right >= 3


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")
    colour: Literal["red", "green", "blue", "yellow", "orange", "purple", "black", "white"]
    shape: Literal["circle", "square", "triangle", "star"]
    place: str


class Shapes(BaseModel):
    model_config = ConfigDict(extra="forbid")
    shapes: list[Shape]


def test_an_extraction_held_to_a_schema(client: openai.OpenAI) -> None:
    right = 0
    assert len(CONTENT["extraction"]) == 8
    for record in CONTENT["extraction"]:
        text = {"type": "text", "text": "Describe the image as JSON."}
        answer = client.chat.completions.parse(
            model=MODEL,
            messages=[{"role": "user", "content": [image_part(record["image"]), text]}],
            response_format=Shapes,
            temperature=0,
            max_tokens=128,
        )
        parsed = answer.choices[0].message.parsed
        assert parsed is not None
        right += [[s.colour, s.shape, s.place] for s in parsed.shapes] == record["shapes"]
    assert right >= 6
