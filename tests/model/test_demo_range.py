"""InternVL's range through the API, answered truthfully by the bundled model: several pictures, several
rounds, a video of a moving shape, and an extraction held to a schema."""

import base64
import io
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import av
import openai
import pytest
from internvl_server.settings import Settings
from pydantic import BaseModel, ConfigDict

from scripts.demo_world import questions
from scripts.demo_world.drawing import draw_scene, encode
from scripts.demo_world.exam import make_task
from scripts.demo_world.scenes import PLACES, Item, Scene, sample_scene
from tests.live_server import LiveServer

pytestmark = pytest.mark.model

MODEL = "internvl-demo"


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with LiveServer(Settings()) as server:
        yield server.client()


def image_part(scene: Scene) -> dict[str, Any]:
    data, media_type = encode(scene)
    url = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def say(client: openai.OpenAI, messages: list[Any]) -> str:
    answer = client.chat.completions.create(
        model=MODEL, messages=messages, temperature=0, max_tokens=96
    )
    return answer.choices[0].message.content or ""


def test_which_of_several_pictures(client: openai.OpenAI) -> None:
    right = 0
    for index in range(10):
        task = make_task("which", index, seed="range")
        parts = [*map(image_part, task.scenes), {"type": "text", "text": task.question}]
        right += say(client, [{"role": "user", "content": parts}]) == task.answer
    assert right >= 8


def test_three_rounds(client: openai.OpenAI) -> None:
    rng = random.Random("rounds")
    right = 0
    for _ in range(6):
        scene = sample_scene(rng)
        rounds = [questions.describe(rng, scene), questions.count(rng, scene)]
        item = rng.choice(scene.items)
        last = f"Where is the {item.name}?"
        messages: list[Any] = []
        for number, qa in enumerate(rounds):
            picture = [image_part(scene)] if number == 0 else []
            text = {"type": "text", "text": qa.question}
            messages.append({"role": "user", "content": [*picture, text]})
            messages.append({"role": "assistant", "content": say(client, messages)})
        messages.append({"role": "user", "content": last})
        right += say(client, messages) == questions.where_answer(scene, item.name)
    assert right >= 5


def moving(name: tuple[str, str], start: int, end: int) -> tuple[Scene, bytes]:
    """A shape that goes from one place to another, and the video of it: 24 frames of mp4."""
    colour, shape = name
    rgb = {"red": (220, 30, 30), "blue": (40, 70, 210), "green": (40, 150, 60)}[colour]
    places = [((p % 3 + 0.5) / 3, (p // 3 + 0.5) / 3) for p in (start, end)]
    buffer = io.BytesIO()
    scene = Scene(448, 448, (235, 235, 235), ())
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 448
        stream.bit_rate = 4_000_000
        for number in range(24):
            part = min(max((number - 3) / 17, 0.0), 1.0)  # it rests at both ends
            x, y = (a + part * (b - a) for a, b in zip(*places, strict=True))
            item = Item(shape, colour, rgb, x, y, 60.0, 0.0, start)
            frame = av.VideoFrame.from_image(draw_scene(replace(scene, items=(item,))))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return replace(scene, items=(item,)), buffer.getvalue()


@pytest.mark.parametrize("num_frames", [None, 4])
def test_a_video_of_a_moving_shape(client: openai.OpenAI, num_frames: int | None) -> None:
    cases = [
        (("red", "circle"), "left", "right"),
        (("blue", "square"), "top", "bottom"),
        (("green", "triangle"), "bottom right", "top left"),
        (("red", "star"), "centre", "top right"),
    ]
    right = 0
    for name, start, end in cases:
        _, data = moving(name, PLACES.index(start), PLACES.index(end))
        url = f"data:video/mp4;base64,{base64.b64encode(data).decode()}"
        video: dict[str, Any] = {"url": url} | ({"num_frames": num_frames} if num_frames else {})
        parts = [
            {"type": "video_url", "video_url": video},
            {"type": "text", "text": "Which way does the shape move?"},
        ]
        answer = say(client, [{"role": "user", "content": parts}])
        right += answer == f"The {' '.join(name)} moves from the {start} to the {end}."
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
    rng = random.Random("extraction")
    right = 0
    for _ in range(8):
        scene = sample_scene(rng, count=rng.randint(1, 3))
        text = {"type": "text", "text": "Describe the image as JSON."}
        answer = client.chat.completions.parse(
            model=MODEL,
            messages=[{"role": "user", "content": [image_part(scene), text]}],
            response_format=Shapes,
            temperature=0,
            max_tokens=128,
        )
        parsed = answer.choices[0].message.parsed
        assert parsed is not None
        expected = [(i.colour, i.shape, PLACES[i.place]) for i in scene.items]
        right += [(s.colour, s.shape, s.place) for s in parsed.shapes] == expected
    assert right >= 6
