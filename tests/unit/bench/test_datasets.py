"""Prompts: exact lengths, shared beginnings, media that decode, files."""

import base64
import io
import json
from pathlib import Path

import av
import numpy as np
import pytest
from internvl_server.bench.datasets.base import DatasetError
from internvl_server.bench.datasets.counting import EstimatedCounter, FileCounter
from internvl_server.bench.datasets.files import read_requests, read_sharegpt
from internvl_server.bench.datasets.lengths import Lengths
from internvl_server.bench.datasets.media import MediaMaker
from internvl_server.bench.datasets.synthetic import Synthetic
from internvl_server.bench.datasets.words import TextMaker
from PIL import Image

DEMO = Path(__file__).parents[3] / "server/internvl_server/demo_model"


@pytest.fixture(params=["demo", "bytes"])
def counter(request: pytest.FixtureRequest, tiny_checkpoint: Path) -> FileCounter:
    return FileCounter(DEMO if request.param == "demo" else tiny_checkpoint)


@pytest.mark.parametrize("length", [2, 3, 17, 128, 1000])
async def test_texts_have_exactly_so_many_tokens(counter: FileCounter, length: int) -> None:
    text, num_tokens = await TextMaker(counter).text(length, np.random.default_rng(length))
    assert num_tokens == length == await counter.count(text)


@pytest.mark.parametrize(
    ("text", "mean", "deviation"),
    [
        ("100", 100, 0),
        ("uniform:50:150", 100, 100 / 12**0.5),
        ("normal:100:10", 100, 10),
        ("lognormal:100:0.5", 100 * np.exp(0.125), 60.4),
    ],
)
def test_distributions_of_lengths(text: str, mean: float, deviation: float) -> None:
    rng = np.random.default_rng(0)
    values = [Lengths.parse(text).sample(rng) for _ in range(5000)]
    assert np.mean(values) == pytest.approx(mean, rel=0.03)
    assert np.std(values) == pytest.approx(deviation, rel=0.06, abs=0.01)


@pytest.mark.parametrize("text", ["", "x", "uniform:9:1", "normal:5", "-3", "nan", "other:1:2"])
def test_other_lengths_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Lengths.parse(text)


async def test_prompts_share_beginnings_in_turn() -> None:
    made = Synthetic(Lengths.parse("20"), Lengths.parse("5"), num_prefixes=3, prefix_tokens=30)
    prompts = await made.prompts(9, FileCounter(DEMO), seed=1)
    assert [prompt.group for prompt in prompts] == [0, 1, 2] * 3
    assert len({prompt.system for prompt in prompts}) == 3
    assert len({prompt.text for prompt in prompts}) == 9
    assert {prompt.num_tokens for prompt in prompts} == {50}
    assert prompts == await made.prompts(9, FileCounter(DEMO), seed=1)


def decoded(url: str) -> bytes:
    return base64.b64decode(url.partition(",")[2], validate=True)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_pictures_differ_in_bytes_and_decode(image_format: str) -> None:
    maker = MediaMaker(num_images=2, image_sizes=((64, 48),), image_format=image_format)
    urls = [part.url for part in maker.parts(np.random.default_rng(0))]
    assert urls[0] != urls[1]
    for url in urls:
        assert Image.open(io.BytesIO(decoded(url))).convert("RGB").size == (64, 48)


def test_a_share_of_pictures_is_repeated() -> None:
    maker = MediaMaker(num_images=1, image_sizes=((16, 16),), pool=3, repeated=0.75)
    rng = np.random.default_rng(0)
    urls = [maker.parts(rng)[0].url for _ in range(1000)]
    assert len(set(urls)) == pytest.approx(250 + 3, abs=45)


def test_videos_have_so_many_frames() -> None:
    maker = MediaMaker(num_videos=2, video_frames=5, video_size=(64, 48))
    first, second = maker.parts(np.random.default_rng(0))
    assert first.type == "video_url"
    assert first.url != second.url
    with av.open(io.BytesIO(decoded(second.url))) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == 5
    assert (frames[0].width, frames[0].height) == (64, 48)


def sharegpt(*pairs: tuple[str, str]) -> str:
    turns = [
        [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]
        for text, answer in pairs
    ]
    return json.dumps([{"id": "x", "conversations": pair} for pair in turns])


async def test_sharegpt_lengths_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text(sharegpt(("a" * 40, "b" * 80), ("short", "x"), ("c" * 9000, "d" * 40)))
    prompts = await read_sharegpt(path, 3, EstimatedCounter(), output_len=None, seed=0)
    assert [(p.text[0], p.max_tokens, p.num_tokens) for p in prompts] == [("a", 20, 10)] * 3


def test_requests_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    messages = [{"role": "user", "content": "hi"}]
    lines = [
        {"messages": messages, "temperature": 0, "model": "other", "stream": False},
        {"custom_id": "1", "body": {"messages": messages, "max_tokens": 3}},
        {"prompt": "text", "output_tokens": 7},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    first, second, third, again = read_requests(path, 4, output_len=None)
    assert first.messages == messages
    assert first.fields == {"temperature": 0}
    assert second.fields == {"max_tokens": 3}
    assert (third.text, third.max_tokens) == ("text", 7)
    assert again == first


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"prompt": 3}', '{"body": 1}'])
def test_other_lines_are_refused_by_place(tmp_path: Path, line: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(f'{{"prompt": "x"}}\n{line}\n')
    with pytest.raises(DatasetError, match=r"r\.jsonl:2"):
        read_requests(path, 1, output_len=None)
