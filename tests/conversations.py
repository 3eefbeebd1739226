"""Conversations about images, as clients send them to several servers."""

from collections.abc import Callable
from typing import Any


def picture_bodies(
    picture_url: Callable[..., str], model: str, *, num_conversations: int = 8, num_turns: int = 3
) -> list[dict[str, Any]]:
    """The requests of conversations about different images, a turn of each at a time."""
    conversations: list[list[dict[str, Any]]] = []
    for index in range(num_conversations):
        picture = {"type": "image_url", "image_url": {"url": picture_url(200 + 10 * index, 150)}}
        text = {"type": "text", "text": "What is it?"}
        conversations.append([{"role": "user", "content": [picture, text]}])
    bodies = []
    for turn in range(num_turns):
        for messages in conversations:
            bodies.append({"model": model, "messages": [*messages], "max_tokens": 4})
            messages += [
                {"role": "assistant", "content": f"answer {turn}"},
                {"role": "user", "content": "And then?"},
            ]
    return bodies
