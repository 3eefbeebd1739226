"""`/tokenize`, `/detokenize` and `/v1/chat/completions/input_tokens` over real sockets."""

import base64
import io
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from internvl_server.api.admission import GateState
from internvl_server.media.tiling import count_tiles, select_grid
from internvl_server.prompt.tokenizer import PromptTokenizer
from PIL import ExifTags, Image

from tests.api.test_errors import assert_envelope
from tests.conftest import data_url
from tests.live_server import LiveServer

MODEL = "tiny"
HELLO = [{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}]
COUNT = "/v1/chat/completions/input_tokens"


def send(server: LiveServer, path: str, body: Any, **headers: str) -> httpx2.Response:
    return httpx2.post(server.url + path, json=body, headers=headers, timeout=60)


def ask(server: LiveServer, path: str, body: Any) -> dict[str, Any]:
    response = send(server, path, body)
    assert response.status_code == 200, response.text
    return response.json()


def with_pictures(*urls: str, **image: Any) -> list[dict[str, Any]]:
    parts = [{"type": "image_url", "image_url": {"url": url} | image} for url in urls]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "What?"}]}]


def sideways(width: int, height: int, orientation: int) -> str:
    """A JPEG that says it is to be turned."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "JPEG", exif=exif)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize(
    "text", ["hello", "", "<|im_end|> <IMG_CONTEXT>", "世界 🙂\n\n  x", "a" * 9000]
)
def test_texts_there_and_back(
    echo_server: LiveServer, tokenizer: PromptTokenizer, text: str
) -> None:
    made = ask(echo_server, "/tokenize", {"model": MODEL, "prompt": text})
    assert made["tokens"] == tokenizer.encode_text(text)
    assert made["count"] == len(made["tokens"])
    assert made["token_strs"] is None
    assert made["max_model_len"] == echo_server.engine.info.max_model_len
    if made["count"] <= made["max_model_len"]:
        assert ask(echo_server, "/detokenize", {"tokens": made["tokens"]}) == {"prompt": text}


def test_text_that_looks_like_a_control_token_is_none(
    echo_server: LiveServer, tokenizer: PromptTokenizer
) -> None:
    made = ask(echo_server, "/tokenize", {"prompt": "<|im_end|>", "return_token_strs": True})
    assert not set(made["tokens"]) & set(tokenizer.control_ids.values())
    assert "".join(made["token_strs"]) == "<|im_end|>"
    assert len(made["token_strs"]) == made["count"]
    shown = ask(echo_server, "/detokenize", {"tokens": [tokenizer.control_id("<|im_end|>")]})
    assert shown == {"prompt": "<|im_end|>"}


def test_conversations_are_counted_as_they_are_answered(
    echo_server: LiveServer, picture_url: Callable[..., str]
) -> None:
    client = echo_server.client()
    for messages in (HELLO, with_pictures(picture_url(900, 300), picture_url(70, 500))):
        answer = client.chat.completions.create(model=MODEL, messages=messages)
        made = ask(echo_server, "/tokenize", {"messages": messages})
        assert answer.usage is not None
        assert made["count"] == len(made["tokens"]) == answer.usage.prompt_tokens
    text = ask(echo_server, "/detokenize", {"tokens": made["tokens"]})["prompt"]
    assert text.count("<img>") == text.count("</img>") == 2
    assert "Image-2: <img><IMG_CONTEXT>" in text


def test_tools_are_counted(echo_server: LiveServer) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    for tools in ([tool], []):
        body = {"model": MODEL, "messages": HELLO, "tools": tools}
        real = echo_server.post(body).json()["usage"]["prompt_tokens"]
        assert ask(echo_server, COUNT, body)["input_tokens"] == real
        assert ask(echo_server, "/tokenize", body)["count"] == real
    with_tool = ask(echo_server, "/tokenize", {"messages": HELLO, "tools": [tool]})["tokens"]
    assert "look" in ask(echo_server, "/detokenize", {"tokens": with_tool})["prompt"]


def test_how_a_conversation_ends(echo_server: LiveServer) -> None:
    def text(messages: list[dict[str, str]], **options: bool) -> str:
        tokens = ask(echo_server, "/tokenize", {"messages": messages, **options})["tokens"]
        return ask(echo_server, "/detokenize", {"tokens": tokens})["prompt"]

    begun = [*HELLO, {"role": "assistant", "content": "Well"}]
    assert text(HELLO).endswith("hello<|im_end|>\n<|im_start|>assistant\n")
    assert text(HELLO, add_generation_prompt=True) == text(HELLO)
    assert text(begun, continue_final_message=True).endswith("assistant\nWell")
    assert text(HELLO, add_generation_prompt=False).endswith("hello<|im_end|>\n")
    sent = {"messages": begun, "continue_final_message": True, "add_generation_prompt": True}
    assert_envelope(
        send(echo_server, "/tokenize", sent), 400, "invalid_request", "add_generation_prompt"
    )


@pytest.mark.parametrize(
    ("path", "body", "code", "param"),
    [
        ("/tokenize", {}, "missing_required_parameter", "prompt"),
        ("/tokenize", {"prompt": 5}, "invalid_value", "prompt"),
        ("/tokenize", {"prompt": "x", "messages": HELLO}, "invalid_request", "prompt"),
        ("/tokenize", {"prompt": "x", "tools": [{}]}, "invalid_request", "tools"),
        ("/tokenize", {"messages": []}, "invalid_value", "messages"),
        ("/tokenize", {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
         "missing_required_parameter", "messages[0].content[0].text"),
        ("/tokenize", {"messages": [{}] * 1025}, "invalid_request", "messages"),
        ("/tokenize", {"prompt": "x" * 300_000}, "context_length_exceeded", "prompt"),
        ("/tokenize", {"messages": with_pictures("data:image/png;base64,aGVsbG8=")},
         "invalid_image", "messages[0].content[0].image_url"),
        ("/detokenize", {}, "missing_required_parameter", "tokens"),
        ("/detokenize", {"tokens": ["x"]}, "invalid_value", "tokens[0]"),
        ("/detokenize", {"tokens": [1, -1]}, "invalid_value", "tokens[1]"),
        ("/detokenize", {"tokens": [1, 10**9]}, "invalid_request", "tokens[1]"),
        ("/detokenize", {"tokens": [1] * 100_000}, "invalid_request", "tokens"),
        (COUNT, {"messages": HELLO}, "missing_required_parameter", "model"),
        (COUNT, {"model": MODEL, "messages": HELLO, "n": 1000}, "invalid_value", "n"),
        (COUNT, {"model": MODEL, "messages": HELLO, "n": 100}, "invalid_value", "n"),
        (COUNT, {"model": MODEL, "messages": HELLO, "logit_bias": {"99999": 1}},
         "invalid_request", "logit_bias"),
        (COUNT, {"model": MODEL, "messages": with_pictures(*["data:,x"] * 257)},
         "invalid_request", "messages"),
        (COUNT, {"model": MODEL, "messages": with_pictures("http://127.0.0.1:1/x.png")},
         "image_url_blocked", "messages[0].content[0].image_url"),
    ],
)  # fmt: skip
def test_refusals(
    echo_server: LiveServer, path: str, body: dict[str, Any], code: str, param: str
) -> None:
    assert_envelope(send(echo_server, path, body), 400, code, param)
    assert echo_server.gate.num_in_flight == 0


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", COUNT])
def test_the_edge_is_that_of_chat(start_server: Callable[..., LiveServer], path: str) -> None:
    server = start_server(server={"api_keys": ["secret"]}, limits={"max_body_bytes": 1000})
    body = {"model": MODEL, "messages": HELLO} if path != "/detokenize" else {"tokens": [1]}
    assert_envelope(send(server, path, body), 401, "invalid_api_key")
    key = {"authorization": "Bearer secret"}
    assert send(server, path, body | {"nope": 1}, **key).headers["x-ignored-fields"] == "nope"
    assert_envelope(
        send(server, path, body | {"model": "x"}, **key), 404, "model_not_found", "model"
    )
    assert_envelope(send(server, path, {"x": "y" * 1000}, **key), 413, "request_too_large")
    server.gate.state = GateState.DRAINING
    assert_envelope(send(server, path, body, **key), 503, "server_shutting_down")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    pictures=st.lists(
        st.tuples(
            st.integers(1, 700), st.integers(1, 700), st.sampled_from([1, 3, 5, 6, 8]),
            st.sampled_from([None, "low", "medium", "auto", "high", "original"]),
            st.sampled_from([None, 1, 3, 7, 40]),
        ),
        max_size=4,
    ),
    max_tokens=st.sampled_from([None, 1, 300, 1500]),
    num_earlier=st.integers(0, 4),
)  # fmt: skip
def test_the_count_is_the_usage(
    echo_server: LiveServer, pictures: list[Any], max_tokens: int | None, num_earlier: int
) -> None:
    """Also where the tile budget or the context is short, and where the request is refused for it."""
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {
            "url": sideways(width, height, orientation), "detail": detail, "max_tiles": max_tiles}}
        for width, height, orientation, detail, max_tiles in pictures
        if max(width, height) <= 200 * min(width, height)
    ]  # fmt: skip
    earlier = [
        {"role": "user", "content": parts[:num_earlier]},
        {"role": "assistant", "content": "x"},
    ]
    question = {"type": "text", "text": "What is there?"}
    body = {"model": MODEL, "max_tokens": max_tokens, "messages": [
        *(earlier if parts[:num_earlier] else []),
        {"role": "user", "content": [*parts[num_earlier:], question]}]}  # fmt: skip
    response = send(echo_server, COUNT, body)
    assert response.status_code == 200, response.text
    counted = response.json()
    real = echo_server.post(body)
    assert counted["fits"] == (real.status_code == 200), (counted, real.text)
    if real.status_code != 200:
        assert real.json()["error"]["code"] == "context_length_exceeded"
        return
    assert real.headers.get("x-warnings") == response.headers.get("x-warnings")
    usage = real.json()["usage"]
    details = usage["prompt_tokens_details"]
    assert counted["input_tokens"] == usage["prompt_tokens"]
    assert counted["image_tokens"] == details["image_tokens"]
    assert counted["text_tokens"] == details["text_tokens"]
    assert [{k: i[k] for k in ("tiles", "tokens")} for i in counted["images"]] == details["images"]
    assert counted["input_tokens"] + counted["max_tokens"] <= counted["max_model_len"]
    assert usage["completion_tokens"] <= counted["max_tokens"]


def test_the_tile_budget_of_a_request_is_shared_alike(
    start_server: Callable[..., LiveServer], picture_url: Callable[..., str]
) -> None:
    server = start_server(media={"max_tiles_per_request": 9})
    urls = picture_url(800, 400), picture_url(300, 900), picture_url(50, 50)
    body = {"model": MODEL, "messages": with_pictures(*urls, detail="high"), "max_tokens": 1}
    counted = ask(server, COUNT, body)
    real = server.post(body).json()["usage"]
    assert [i["tiles"] for i in counted["images"]] == [
        i["tiles"] for i in real["prompt_tokens_details"]["images"]
    ]
    assert sum(i["tiles"] for i in counted["images"]) <= 9
    assert counted["input_tokens"] == real["prompt_tokens"]


def test_grids_are_those_of_the_tiling(
    echo_server: LiveServer, picture_url: Callable[..., str]
) -> None:
    """Also when pictures must share the tiles of a request."""
    tile_px = echo_server.app.state.services.checkpoint.tile_px
    for size in ((800, 400), (300, 900), (50, 50), (1400, 900)):
        for detail, max_tiles in (("low", 1), ("medium", 6), ("high", 12)):
            body = {"model": MODEL, "messages": with_pictures(picture_url(*size), detail=detail)}
            [image] = ask(echo_server, COUNT, body)["images"]
            grid = select_grid(*size, max_tiles=max_tiles, tile_px=tile_px)
            assert (tuple(image["grid"]), image["tiles"]) == (grid, count_tiles(grid))
    messages = with_pictures(*[picture_url(900, 600)] * 12, detail="high")
    shared = ask(echo_server, COUNT, {"model": MODEL, "messages": messages})["images"]
    assert {image["tiles"] for image in shared} != {
        count_tiles(select_grid(900, 600, max_tiles=12, tile_px=tile_px))
    }
    assert all(image["tiles"] == count_tiles(tuple(image["grid"])) for image in shared)


def test_sizes_are_of_the_upright_picture(echo_server: LiveServer) -> None:
    body = {"model": MODEL, "messages": with_pictures(sideways(640, 480, 6))}
    counted = ask(echo_server, COUNT, body)
    assert counted["object"] == "chat.completion.input_tokens"
    assert [(i["width"], i["height"]) for i in counted["images"]] == [(480, 640)]


def test_only_headers_are_read(echo_server: LiveServer) -> None:
    """A picture that is cut off behind its header is counted; the real request refuses it."""
    url = data_url(Image.effect_noise((500, 400), 50).convert("RGB"))
    head, _, text = url.partition(",")
    cut = f"{head},{text[: len(text) // 8 * 4]}"
    body = {"model": MODEL, "messages": with_pictures(cut), "max_tokens": 1}
    assert ask(echo_server, COUNT, body)["images"][0]["width"] == 500
    assert_envelope(
        echo_server.post(body), 400, "invalid_image", "messages[0].content[0].image_url"
    )


def test_text_that_does_not_fit_is_an_answer(echo_server: LiveServer) -> None:
    messages = [{"role": "user", "content": "word " * 3000}]
    counted = ask(echo_server, COUNT, {"model": MODEL, "messages": messages})
    assert counted["fits"] is False
    assert counted["input_tokens"] > counted["max_model_len"]
    fits = ask(echo_server, COUNT, {"model": MODEL, "messages": HELLO, "max_tokens": 7, "n": 3})
    assert (fits["fits"], fits["max_tokens"]) == (True, 7)


def test_no_engine_is_needed(
    start_server: Callable[..., LiveServer], picture_url: Callable[..., str]
) -> None:
    server = start_server()
    server.engine._state = "loading"
    body = {"model": MODEL, "messages": with_pictures(picture_url())}
    assert_envelope(server.post(body), 503, "engine_unavailable")
    assert ask(server, COUNT, body)["fits"] is True
    assert ask(server, "/tokenize", body)["count"] > 0
    assert ask(server, "/detokenize", {"tokens": [1]})
    assert server.engine.num_started == 0
