"""The demo model's world: its scenes are fair, its questions have one answer, its tokens are few."""

import math
import random
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from demo_world import questions, symbols  # noqa: E402
from demo_world.coding import mirrored  # noqa: E402
from demo_world.conversations import Writer, one_picture  # noqa: E402
from demo_world.drawing import Box, draw_scene, encode, label_tile, tile_boxes  # noqa: E402
from demo_world.exam import ALL_KINDS, make_task  # noqa: E402
from demo_world.scenes import (  # noqa: E402
    MAX_ITEMS,
    MAX_SIZE,
    MIN_SIZE,
    PLACES,
    Item,
    Scene,
    sample_scene,
    sample_tiny_scene,
)
from demo_world.tokenizer import SPECIAL_TOKENS, SYSTEM_TEXT, build_tokenizer  # noqa: E402


def _scenes(count: int) -> list[Scene]:
    return [sample_scene(random.Random(f"test-{index}")) for index in range(count)]


def _item(colour: str, shape: str, place: int) -> Item:
    x, y = (place % 3 + 0.5) / 3, (place // 3 + 0.5) / 3
    return Item(shape, colour, (255, 0, 0), x, y, 40.0, 0.0, place)


SCENE = Scene(
    600,
    400,
    (230, 230, 230),
    (_item("red", "circle", 0), _item("orange", "square", 5)),
)


@pytest.mark.parametrize("scene", _scenes(60))
def test_items_are_distinct_inside_and_apart(scene: Scene) -> None:
    names = [item.name for item in scene.items]
    assert 1 <= len(names) <= MAX_ITEMS
    assert len(set(names)) == len(names)
    assert [i.place for i in scene.items] == sorted({i.place for i in scene.items})
    for item in scene.items:
        size = 2 * item.radius / min(scene.width, scene.height)
        assert MIN_SIZE * 0.999 <= size <= MAX_SIZE
        assert item.radius <= item.x * scene.width <= scene.width - item.radius
        assert item.radius <= item.y * scene.height <= scene.height - item.radius
        assert (int(item.x * 3), int(item.y * 3)) == (item.place % 3, item.place // 3)
    for one in scene.items:
        for other in scene.items:
            if one is not other:
                across = (one.x - other.x) * scene.width
                down = (one.y - other.y) * scene.height
                assert math.hypot(across, down) > one.radius + other.radius


@pytest.mark.parametrize("scene", _scenes(12))
def test_an_item_is_drawn_in_its_shade_at_its_centre(scene: Scene) -> None:
    picture = draw_scene(scene)
    assert picture.size == (scene.width, scene.height)
    for item in scene.items:
        pixel = picture.getpixel((int(item.x * scene.width), int(item.y * scene.height)))
        assert np.abs(np.subtract(pixel, item.rgb)).max() < 40


def test_a_scene_is_always_drawn_alike() -> None:
    scene = sample_scene(random.Random("same"))
    assert encode(scene) == encode(scene)


def test_tiny_scenes_hold_one_tiny_item() -> None:
    for index in range(20):
        scene = sample_tiny_scene(random.Random(index))
        assert scene.tiny
        assert len(scene.items) == 1
        assert 2 * scene.items[0].radius <= 0.046 * min(scene.width, scene.height)


def test_labels_name_every_place_of_the_whole_picture() -> None:
    labels = label_tile(SCENE, Box())
    assert [PLACES[i] for i in np.flatnonzero(labels.places)] == ["top left", "right"]
    assert labels.weight.sum() == pytest.approx(2.0, abs=1e-3)


def test_the_whole_picture_is_the_last_tile() -> None:
    assert tile_boxes(1, 1) == [Box()]
    boxes = tile_boxes(2, 1)
    assert boxes == [Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1), Box()]


def test_the_code_of_a_tile_says_what_lies_where() -> None:
    code = symbols.scene_code(SCENE)
    assert (code[:, symbols.COUNT + 2] == 1).all()
    for place in range(9):
        token = code[symbols.PLACE_TOKENS[place]]
        item = SCENE.at(place)
        assert token[symbols.PLACE + place] == 1
        assert bool(token[symbols.ITEM]) == (item is not None)
        assert bool(token[symbols.EMPTY]) == (item is None)
    second = code[symbols.PLACE_TOKENS[5]]
    assert second[symbols.RANK : symbols.RANK + 4].tolist() == [0, 1, 0, 0]
    assert second[symbols.COLOUR + 4] == second[symbols.SHAPE + 1] == 1


def test_a_mirrored_tile_has_left_and_right_swapped() -> None:
    assert mirrored([1, 2, 3, 4, 5, 6, 7, 8, 9]) == [3, 2, 1, 6, 5, 4, 9, 8, 7]


def test_words_share_their_channel_with_what_shows_the_same() -> None:
    tokenizer = build_tokenizer()
    channels = symbols.code_of_words(tokenizer)
    for text, channel in ((" red", symbols.COLOUR), ("star", symbols.SHAPE + 3)):
        [token] = tokenizer.encode(text).ids
        assert channels[token] == channel


def test_a_look_goes_to_the_token_of_the_item_that_is_named() -> None:
    from demo_world.batching import collate
    from demo_world.looks import look_targets

    pictures = symbols.InventedPictures("test")
    rng, writer = random.Random(0), Writer(build_tokenizer())
    picture = pictures.several()
    batch = collate([one_picture(writer, rng, picture, 20)])
    [end] = batch.sequences[0].image_ends
    last_tile = range(end - 64, end + 1)
    targets = look_targets(batch)
    assert len(targets) > 20
    assert {int(target) for target in targets[:, 3]} <= {*last_tile}


def test_answers_are_canonical() -> None:
    assert questions.description(SCENE) == (
        "There are two shapes: a red circle at the top left and an orange square on the right."
    )
    assert questions.where_answer(SCENE, "red circle") == "The red circle is at the top left."
    assert questions.where_answer(SCENE, "red star") == "There is no red star in the picture."
    assert questions.as_json(random.Random(0), SCENE).answer == (
        '{"shapes": [{"colour": "red", "shape": "circle", "place": "top left"}, '
        '{"colour": "orange", "shape": "square", "place": "right"}]}'
    )
    count = questions.count(random.Random(0), SCENE)
    assert count.answer == "There are two shapes in the picture."


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_exam_tasks_are_repeatable(kind: str) -> None:
    assert make_task(kind, 3) == make_task(kind, 3)
    assert make_task(kind, 3) != make_task(kind, 4)


def test_which_has_exactly_one_right_image() -> None:
    for index in range(40):
        task = make_task("which", index)
        name = task.answer.split(" contains ")[1].split(" ", 1)[1].rstrip(".")
        holds = [any(item.name == name for item in scene.items) for scene in task.scenes]
        assert sorted(holds) == [False, True]
        assert task.answer.startswith(f"Image-{1 + holds.index(True)} ")


def test_the_tokenizer_knows_the_world_and_any_text() -> None:
    tokenizer = build_tokenizer()
    assert len(tokenizer.encode(SYSTEM_TEXT).ids) < 15
    assert len(tokenizer.encode("There are two shapes: a red circle.").ids) == 9
    for special in SPECIAL_TOKENS:
        assert tokenizer.encode(special).ids == [tokenizer.token_to_id(special)]
    text = "Ünïcode, 日本, 🎉 and\n\n  spaces\t1234"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
