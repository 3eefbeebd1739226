"""Writes examination tasks as image and video files and a JSON file, for the server's tests.

The tests of the server use these files, so that they do not depend on the code of the demo world.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import av

from scripts.demo_model.exam.tasks import TINY_KINDS, Task, make_task
from scripts.demo_model.world import questions as q
from scripts.demo_model.world.drawing import encode_scene, render_scene
from scripts.demo_model.world.questions import REQUIRED_KINDS
from scripts.demo_model.world.sampling import sample_scene
from scripts.demo_model.world.scene import PLACES, Item, Scene

Record = dict[str, object]

_TASKS_PER_KIND = 20
# Scenes with larger files are skipped, to keep the repository small.
_MAX_BYTES, _MAX_TINY_BYTES = 10_000, 36_000
_VIDEOS = (
    ("red", "circle", (220, 30, 30), "left", "right"),
    ("blue", "square", (40, 70, 210), "top", "bottom"),
    ("green", "triangle", (40, 150, 60), "bottom right", "top left"),
    ("red", "star", (220, 30, 30), "centre", "top right"),
)
_VIDEO_PX, _VIDEO_FPS, _VIDEO_FRAMES = 448, 8, 24


class FrozenExam:
    """The files in one folder: ``questions.json``, and the images and videos that it names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[Scene, str] = {}

    def write(self) -> None:
        """Write all files; files of earlier runs stay unless they are overwritten."""
        self._folder.mkdir(parents=True, exist_ok=True)
        kinds = (*REQUIRED_KINDS, "follow_up", *TINY_KINDS)
        content = {
            "tasks": {kind: self._tasks(kind, "tests", _TASKS_PER_KIND) for kind in kinds},
            "which_range": self._tasks("which", "range", 10),
            "rounds": self._rounds(6),
            "extraction": self._extraction(8),
            "videos": self._videos(),
        }
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (self._folder / "questions.json").write_text(f"{text}\n", encoding="utf-8")

    def _tasks(self, kind: str, seed: str, number: int) -> list[Record]:
        tasks = (make_task(kind, index, seed=seed) for index in count())
        limit = _MAX_TINY_BYTES if kind in TINY_KINDS else _MAX_BYTES
        small = (task for task in tasks if all(_size(s) <= limit for s in task.scenes))
        return [self._record(task, seed) for task in islice(small, number)]

    def _record(self, task: Task, seed: str) -> Record:
        record: Record = {
            "images": [self._image(scene, f"{seed}-{task.kind}") for scene in task.scenes],
            "question": task.question,
            "answer": task.answer,
            "detail": task.detail,
        }
        if task.earlier:
            record["earlier"] = [task.earlier.question, task.earlier.answer]
        return record

    def _rounds(self, number: int) -> list[Record]:
        """Freeze conversations of three questions about one image."""
        rng = random.Random("rounds")
        records: list[Record] = []
        for scene in islice(_small_scenes(rng), number):
            item = rng.choice(scene.items)
            first, second = q.describe(rng, scene), q.count(rng, scene)
            records.append(
                {
                    "image": self._image(scene, "rounds"),
                    "questions": [first.question, second.question, f"Where is the {item.name}?"],
                    "last_answer": q.where_answer(scene, item.name),
                }
            )
        return records

    def _extraction(self, number: int) -> list[Record]:
        """Freeze images of one to three shapes, and colour, shape and place of each."""
        scenes = islice(_small_scenes(random.Random("extraction"), max_items=3), number)
        return [
            {
                "image": self._image(scene, "extraction"),
                "shapes": [[i.colour, i.shape, PLACES[i.place]] for i in scene.items],
            }
            for scene in scenes
        ]

    def _videos(self) -> list[Record]:
        records: list[Record] = []
        for number, (colour, shape, rgb, start, end) in enumerate(_VIDEOS):
            item = Item(shape, colour, rgb, 0, 0, 60.0, 0.0, 0)
            name = f"video-{number}.mp4"
            (self._folder / name).write_bytes(_video(item, start, end))
            answer = f"The {item.name} moves from the {start} to the {end}."
            question = "Which way does the shape move?"
            records.append({"video": name, "question": question, "answer": answer})
        return records

    def _image(self, scene: Scene, prefix: str) -> str:
        """Write the image of a scene unless it was written before; return its file name."""
        if scene not in self._names:
            data, media_type = encode_scene(scene)
            suffix = media_type.removeprefix("image/").replace("jpeg", "jpg")
            self._names[scene] = name = f"{prefix}-{len(self._names):03d}.{suffix}"
            (self._folder / name).write_bytes(data)
        return self._names[scene]


def _size(scene: Scene) -> int:
    return len(encode_scene(scene)[0])


def _small_scenes(rng: random.Random, *, max_items: int = 2) -> Iterator[Scene]:
    while True:
        scene = sample_scene(rng, max_items=max_items)
        if _size(scene) <= _MAX_BYTES:
            yield scene


def _video(item: Item, start: str, end: str) -> bytes:
    """Encode a video of an item that rests, moves from one place to another, and rests."""
    buffer = io.BytesIO()
    scene = Scene(_VIDEO_PX, _VIDEO_PX, (235, 235, 235), ())
    places = [_place_centre(name) for name in (start, end)]
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=_VIDEO_FPS)
        stream.width = stream.height = _VIDEO_PX
        stream.bit_rate = 4_000_000
        for number in range(_VIDEO_FRAMES):
            part = min(max((number - 3) / 17, 0.0), 1.0)
            x, y = (a + part * (b - a) for a, b in zip(*places, strict=True))
            frame = render_scene(replace(scene, items=(replace(item, x=x, y=y),)))
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    return buffer.getvalue()


def _place_centre(name: str) -> tuple[float, float]:
    row, column = divmod(PLACES.index(name), 3)
    return (column + 0.5) / 3, (row + 0.5) / 3
