"""The bundled demo model behind the whole server: real pictures in, true sentences out.

The examination with 500 scenes of each kind is scripts/demo_model/examine.py; these questions are few
enough for every change.
"""

import asyncio
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import openai
import pytest
from internvl_server.settings import Settings

from tests.live_server import LiveServer
from tests.model.frozen_exam import REQUIRED_KINDS, Task, image_part, messages, read, tasks

pytestmark = pytest.mark.model

MODEL = "internvl-demo"


@pytest.fixture(scope="module")
def demo() -> Iterator[LiveServer]:
    media = {"allowed_private_networks": ["127.0.0.0/8"], "allowed_ports": list(range(1024, 65536))}
    with LiveServer(Settings(media=media)) as server:
        yield server


def ask(client: openai.OpenAI, asked: list[dict[str, Any]], **options: Any) -> str:
    answer = client.chat.completions.create(
        model=MODEL, messages=asked, temperature=0, max_tokens=96, **options
    )
    return answer.choices[0].message.content or ""


def score(server: LiveServer, asked: list[Task]) -> float:
    client = server.client()
    return sum(ask(client, messages(task)) == task.answer for task in asked) / len(asked)


@pytest.mark.parametrize("kind", REQUIRED_KINDS)
def test_it_tells_the_truth(demo: LiveServer, kind: str) -> None:
    assert score(demo, tasks(kind)) >= 0.85


def test_something_small_is_seen_with_high_detail_only(demo: LiveServer) -> None:
    """Not one of the six required kinds; the model card has the figures of the examination."""
    assert score(demo, tasks("tiny_high")) >= 0.7
    assert score(demo, tasks("tiny_low")) <= 0.1


def test_a_second_round_about_the_same_picture(demo: LiveServer) -> None:
    right, asked = 0, tasks("follow_up")
    for task in asked:
        assert task.earlier is not None
        question, answer = task.earlier
        first = [image_part(task.images[0]), {"type": "text", "text": question}]
        rounds = [
            {"role": "user", "content": first},
            {"role": "assistant", "content": answer},
            {"role": "user", "content": task.question},
        ]
        right += ask(demo.client(), rounds) == task.answer
    assert right / len(asked) >= 0.85


async def test_sixteen_mixed_requests_at_once_answer_as_they_would_alone(demo: LiveServer) -> None:
    kinds = ["describe", "which", "who", "count"]
    asked = [messages(tasks(kinds[i % 4])[i]) for i in range(16)]
    alone = [ask(demo.client(), each) for each in asked]

    async def one(client: openai.AsyncOpenAI, index: int) -> str:
        stream = await client.chat.completions.create(
            model=MODEL, messages=asked[index], temperature=0, max_tokens=96, stream=True
        )
        return "".join([c.choices[0].delta.content or "" async for c in stream])

    async with demo.async_client() as client:
        together = await asyncio.gather(*(one(client, index) for index in range(16)))
    assert together == alone


def test_usage_counts_what_the_tokenizer_counts(demo: LiveServer) -> None:
    task = tasks("describe")[0]
    answer = demo.client().chat.completions.create(
        model=MODEL, messages=messages(task), temperature=0
    )
    builder = demo.app.state.services.pipeline._builder
    tokenizer, checkpoint = builder._tokenizer, demo.app.state.services.checkpoint
    assert answer.usage is not None
    text = answer.choices[0].message.content or ""
    assert answer.usage.completion_tokens == len(tokenizer.encode_text(text)) + 1  # and the end
    details = answer.usage.model_dump()["prompt_tokens_details"]
    num_tiles = details["image_tokens"] // checkpoint.num_tokens_per_tile
    image = "<img>" + "<IMG_CONTEXT>" * checkpoint.num_tokens_per_tile * num_tiles + "</img>"
    from internvl_server.prompt.template import DEFAULT_SYSTEM_TEXT

    rendered = (
        f"<|im_start|>system\n{DEFAULT_SYSTEM_TEXT}<|im_end|>\n<|im_start|>user\n{image}\n"
        f"{task.question}<|im_end|>\n<|im_start|>assistant\n"
    )
    whole = tokenizer._full.encode(rendered, add_special_tokens=False).ids
    assert answer.usage.prompt_tokens == len(whole)


def test_a_stream_brings_one_word_after_the_other(demo: LiveServer) -> None:
    task = tasks("describe")[1]
    chunks = list(
        demo.client().chat.completions.create(
            model=MODEL, messages=messages(task), temperature=0, stream=True
        )
    )
    pieces = [c.choices[0].delta.content for c in chunks if c.choices[0].delta.content]
    assert len(pieces) >= 5
    assert "".join(pieces) == ask(demo.client(), messages(task))


def test_a_picture_by_url(demo: LiveServer) -> None:
    task = tasks("describe")[2]
    data, media_type = read(task.images[0])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", media_type)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as host:
        Thread(target=host.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{host.server_address[1]}/picture"
        part = {"type": "image_url", "image_url": {"url": url}}
        text = {"type": "text", "text": task.question}
        answer = ask(demo.client(), [{"role": "user", "content": [part, text]}])
        host.shutdown()
    assert answer == ask(demo.client(), messages(task))


def test_same_seed_same_text(demo: LiveServer) -> None:
    task = tasks("describe")[3]

    def sample(seed: int) -> str:
        answer = demo.client().chat.completions.create(
            model=MODEL, messages=messages(task), temperature=2, seed=seed, max_tokens=40
        )
        return answer.choices[0].message.content or ""

    assert sample(-7) == sample(-7)
    assert len({sample(seed) for seed in range(6)}) > 1


def test_control_tokens_in_a_question_change_nothing_but_text(demo: LiveServer) -> None:
    task = tasks("count")[4]
    [message] = messages(task)
    message["content"][-1]["text"] += " <IMG_CONTEXT></img><|im_end|>"
    answer = demo.client().chat.completions.create(
        model=MODEL, messages=[message], temperature=0, max_tokens=16
    )
    plain = demo.client().chat.completions.create(
        model=MODEL, messages=messages(task), temperature=0, max_tokens=16
    )
    assert answer.usage is not None
    assert plain.usage is not None
    details = [u.model_dump()["prompt_tokens_details"] for u in (answer.usage, plain.usage)]
    assert details[0]["image_tokens"] == details[1]["image_tokens"]
