"""What Home Assistant's LLM Vision 1.7 sends as the provider "Custom OpenAI", field for field.

The questions are those of configs/frontends/home-assistant.yaml.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import yaml

from tests.cases.asking import MODEL, CaseServer, data_url, encoded, part, picture, text_part

AUTOMATION = Path(__file__).parents[2] / "configs" / "frontends" / "home-assistant.yaml"
[automation] = yaml.safe_load(AUTOMATION.read_text(encoding="utf-8"))
ASKED = automation["actions"][0]["data"]
SCHEMA = json.loads(ASKED["structure"])
CAMERAS = ["Front door", "Garden", "Garage"]
SYSTEM = "Summarize what the cameras show."
PICTURE = "<img><IMG_CONTEXT></img>"


def jpeg(number: int) -> dict[str, Any]:
    """A frame as it comes from a camera after LLM Vision has made it 1280 pixels wide."""
    frame = picture(number).resize((1280, 720))
    return part(data_url(encoded(frame, "JPEG"), "image/jpeg"))


def frames(labels: Sequence[str], first: int = 0) -> list[dict[str, Any]]:
    """Pictures, each after a text with its label."""
    pairs = [(text_part(f"{label}:"), jpeg(first + x)) for x, label in enumerate(labels)]
    return [part for pair in pairs for part in pair]


def body(*contents: Any, **fields: Any) -> dict[str, Any]:
    """A request of user messages, with the settings of the provider."""
    messages = [{"role": "user", "content": content} for content in contents]
    settings = {"max_completion_tokens": ASKED["max_tokens"], "temperature": 0.5, "top_p": 0.9}
    return {"model": MODEL, "messages": messages} | settings | fields


def vision(*contents: Any, **fields: Any) -> dict[str, Any]:
    asked = body(*contents, **fields)
    asked["messages"].insert(0, {"role": "system", "content": SYSTEM})
    return asked


def test_the_configuration_is_validated_with_a_greeting(server: CaseServer) -> None:
    """A greeting without any limit must be answered with 200."""
    greeting = {"model": MODEL, "messages": [{"role": "user", "content": [text_part("Hi")]}]}
    headers = {"Content-type": "application/json", "Authorization": "Bearer none"}
    endpoint = f"{server.live.url}/v1"
    answer = httpx2.post(f"{endpoint}/chat/completions", json=greeting, headers=headers, timeout=60)
    assert answer.status_code == 200
    assert isinstance(answer.json()["choices"][0]["message"]["content"], str)


def test_frames_of_several_cameras_follow_their_labels(server: CaseServer) -> None:
    reply = server.answer(vision([*frames(CAMERAS), text_part(ASKED["message"])]))
    assert reply.ignored == []
    prompt = server.prompt(reply.request)
    for number, camera in enumerate(CAMERAS, 1):
        assert f"{camera}:Image-{number}: {PICTURE}\n" in prompt
    assert prompt.index(SYSTEM) < prompt.index(CAMERAS[0]) < prompt.index(ASKED["message"])
    [request] = reply.requests
    assert len({image.fingerprint for image in request.images}) == len(CAMERAS)


def test_frames_without_names_are_numbered_once(server: CaseServer) -> None:
    labels = [f"Image {number}" for number in (1, 2, 3)]
    reply = server.answer(vision([*frames(labels), text_part("Is anybody there?")]))
    assert "".join(f"{label}:{PICTURE}\n" for label in labels) in server.prompt(reply.request)


def test_pictures_to_remember_come_in_a_message_before(server: CaseServer) -> None:
    """Two user messages follow each other; the pictures of both are counted through."""
    known = [text_part("These are for reference."), *frames(["Max"], first=7)]
    shown = [*frames(["camera0-frame-1", "camera0-frame-2"]), text_part("Who is there?")]
    prompt = server.prompt(server.answer(vision(known, shown)).request)
    order = ["Max:", "camera0-frame-1:", "camera0-frame-2:", "Who is there?"]
    assert [prompt.index(text) for text in order] == sorted(prompt.index(text) for text in order)
    assert prompt.count(PICTURE) == 3


def test_a_title_is_asked_for_in_two_messages(server: CaseServer) -> None:
    asked = body(
        [text_part("Write a title.")],
        [text_part("Create a title for this text: A person is at the door.")],
        max_completion_tokens=4096,
    )
    assert isinstance(server.answer(asked).text, str)


def test_an_answer_follows_the_structure(server: CaseServer) -> None:
    """LLM Vision declares the schema strict, and the automation reads its fields."""
    strict = {"name": "response", "schema": SCHEMA, "strict": True}
    asked = vision(
        [*frames(CAMERAS), text_part(ASKED["message"])],
        response_format={"type": "json_schema", "json_schema": strict},
    )
    answer = {"title": "A parcel", "cameras": ["Garden"], "person": False}
    server.will_answer(json.dumps(answer))
    seen = json.loads(server.answer(asked).text)
    jsonschema.validate(seen, SCHEMA)
    read = re.findall(r"seen\.structured_response\.(\w+)", str(automation["actions"][1]))
    assert read
    assert set(read) <= SCHEMA["properties"].keys()
