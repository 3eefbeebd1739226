"""What all clients ask: the same questions as tests/conformance/node/asking.mjs."""

import base64
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

BASE_URL = os.environ.get("CONFORMANCE_URL", "")
MODEL = "internvl-demo"
EXAMPLE = Path(__file__).parents[2] / "data" / "example.jpg"
PICTURE = EXAMPLE.read_bytes()
PICTURE_BASE64 = base64.b64encode(PICTURE).decode()
PICTURE_URL = f"data:image/jpeg;base64,{PICTURE_BASE64}"
HELLO, CITY = "Who are you?", "Which city?"
QUESTION, SEEN = "Describe the image.", "red star"


class Shapes(BaseModel):
    """What is asked for as an object."""

    model_config = ConfigDict(extra="forbid")
    count: Annotated[int, Field(ge=0, le=9)]
    colours: Annotated[list[Literal["red", "blue"]], Field(min_length=1, max_length=2)]
    size: Annotated[int, Field(ge=-5, le=1000)] | None


class City(BaseModel):
    """The arguments of the tool. The demo model would write properties for ever."""

    model_config = ConfigDict(extra="forbid")
    zip: Annotated[int, Field(ge=10, le=99)]


TOOL = {
    "type": "function",
    "function": {
        "name": "find_city",
        "description": "The city with a zip code.",
        "parameters": City.model_json_schema(),
    },
}


def which_city() -> list[dict[str, Any]]:
    return [{"role": "user", "content": CITY}]


def hello() -> list[dict[str, Any]]:
    return [{"role": "user", "content": HELLO}]


def look() -> list[dict[str, Any]]:
    image = {"type": "image_url", "image_url": {"url": PICTURE_URL}}
    return [{"role": "user", "content": [image, {"type": "text", "text": QUESTION}]}]
