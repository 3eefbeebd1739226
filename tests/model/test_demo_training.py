"""The code that made the demo model: it still belongs to the bundled weights and to the frozen questions."""

import json
import random
from pathlib import Path

import pytest

from scripts.demo_model.exam.tasks import ALL_KINDS, make_task
from scripts.demo_model.network import visual_code
from scripts.demo_model.network.tokenizer import build_tokenizer
from scripts.demo_model.training.language.batches import collate
from scripts.demo_model.training.language.conversations import many_turns, one_image
from scripts.demo_model.training.language.images import SyntheticImages
from scripts.demo_model.training.language.sequences import SequenceWriter
from scripts.demo_model.world import questions
from scripts.demo_model.world.colours import COLOURS
from scripts.demo_model.world.labels import WHOLE_IMAGE, label_tile
from scripts.demo_model.world.scene import PLACES, Item, Scene
from tests.model.frozen_exam import CONTENT

ROOT = Path(__file__).parents[2]


def item(colour: str, shape: str, place: int) -> Item:
    x, y = (place % 3 + 0.5) / 3, (place // 3 + 0.5) / 3
    return Item(shape, colour, (255, 0, 0), x, y, 40.0, 0.0, place)


SCENE = Scene(
    600,
    400,
    (230, 230, 230),
    (item("red", "circle", 0), item("orange", "square", 5)),
)


def test_the_tokenizer_is_that_of_the_bundled_model() -> None:
    bundled = ROOT / "server" / "internvl_server" / "demo_model" / "tokenizer.json"
    assert json.loads(build_tokenizer().to_str()) == json.loads(bundled.read_bytes())


def test_frozen_questions_are_those_of_the_examination() -> None:
    tasks = [make_task("describe", index, seed="tests") for index in range(150)]
    frozen = {(record["question"], record["answer"]) for record in CONTENT["tasks"]["describe"]}
    assert frozen <= {(task.question, task.answer) for task in tasks}


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


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_tasks_are_repeatable(kind: str) -> None:
    assert make_task(kind, 3) == make_task(kind, 3)
    assert make_task(kind, 3) != make_task(kind, 4)


def test_exactly_one_image_is_the_answer_to_which() -> None:
    for index in range(40):
        task = make_task("which", index)
        name = task.answer.split(" contains ")[1].split(" ", 1)[1].rstrip(".")
        holds = [scene.named(name) is not None for scene in task.scenes]
        assert sorted(holds) == [False, True]
        assert task.answer.startswith(f"Image-{1 + holds.index(True)} ")


def test_labels_and_code_agree_on_every_place() -> None:
    labels, code = label_tile(SCENE, WHOLE_IMAGE), visual_code.thumbnail_code(SCENE)
    assert labels.weight.sum() == pytest.approx(2.0, abs=1e-3)
    assert visual_code.decode_items(code) == [("red", "circle", 0), ("orange", "square", 5)]
    for place in range(len(PLACES)):
        token = code[visual_code.PLACE_TOKENS[place]]
        assert bool(token[visual_code.ITEM]) == bool(labels.places[place])
        assert bool(token[visual_code.EMPTY]) == (not labels.places[place])
    second = code[visual_code.PLACE_TOKENS[5]]
    assert second[visual_code.RANK_CHANNELS].tolist() == [0, 1, 0, 0]
    assert second[visual_code.COLOUR + COLOURS.index("orange")] == 1


def test_every_answer_of_a_long_conversation_is_about_the_newest_image() -> None:
    images, writer = (
        [SyntheticImages(f"test {n}").single() for n in range(12)],
        SequenceWriter(build_tokenizer()),
    )
    sequence = many_turns(writer, random.Random(0), images)
    assert len(sequence.image_ends) == 12
    assert not sequence.targets
    described = 0
    for start, end, image in zip(
        sequence.image_ends, [*sequence.image_ends[1:], len(sequence.ids)], images, strict=True
    ):
        answers = {number for number in sequence.answer[start:end] if number >= 0}
        for number in answers:
            ids = [i for i, a in zip(sequence.ids, sequence.answer, strict=True) if a == number][
                :-1
            ]
            if sequence.kinds[number] == "describe":
                described += 1
                assert build_tokenizer().decode(ids) == questions.description(image.scene)
    assert described >= 4


def test_supervised_attention_stays_on_the_thumbnail() -> None:
    image, writer = SyntheticImages("test").several(), SequenceWriter(build_tokenizer())
    batch = collate([one_image(writer, random.Random(0), image, 20)])
    [end] = batch.sequences[0].image_ends
    assert len(batch.targets) > 20
    assert set(batch.targets[:, 3].tolist()) <= set(range(end - 64, end + 1))
