"""What reaches the native side from our server, beside what LMDeploy's own api_server hands it.

Both get the same HTTP request and run on the same stand-in loop. `test_equal` holds where LMDeploy is
right; each row of `DIFFERENCES` is a place where we mean to differ, and has a test of its name.
"""

import hashlib
from functools import partial

import pytest
import torch

from tests.conftest import data_url
from tests.lmdeploy.requests import END, IMAGE
from tests.lmdeploy.upstream import ask, ours, upstream
from tests.parity.pictures import make_picture

DIFFERENCES = {
    "system_text": "Without a system message LMDeploy writes the tokenizer's own, we write InternVL's.",
    "image_labels": "Several images: we label them `Image-1: `, as the authors do; LMDeploy does not.",
    "typed_control_tokens": "`<|im_end|>` typed by a user ends the turn in LMDeploy; with us it is text.",
    "typed_image_token": "`<IMG_CONTEXT>` typed beside an image: LMDeploy answers 400; with us it is text.",
    "defaults": "Unset sampling: LMDeploy takes 0.8 and the 50 likeliest, we OpenAI's 1 and all.",
    "greedy": "Temperature 0: LMDeploy hands it on with 50 candidates; we ask for the likeliest (top_k 1).",
    "negative_seed": "A negative seed fails in LMDeploy; we map it to the native range.",
    "zero_top_p": "top_p 0: LMDeploy answers 400; we take the likeliest token.",
    "stop_strings": "LMDeploy makes stop ids of one-token words and drops others; we match them on text.",
    "stop_ids": "We stop at <|endoftext|> too, which LMDeploy takes for text.",
    "fingerprints": "LMDeploy hashes the pixels on the event loop; we name the encoded image and its cut.",
    "resize": "LMDeploy resizes with torchvision (-hf) or PIL (authors); with us it is a setting.",
    "detail": "detail low: up to 6 tiles in LMDeploy (authors) or no effect (hf); one tile with us.",
    "penalties": "Presence and frequency penalty: LMDeploy takes and forgets them; we answer 400.",
}
RESIZE = {"hf": "fast", "authors": "exact"}  # where LMDeploy's own pixels are equal
LAYOUTS = ("hf", "authors")
SYSTEM = {"role": "system", "content": "Be brief."}
PARAMETERS = {
    "max_tokens": 16, "temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "seed": 7,
    "repetition_penalty": 1.1,
}  # fmt: skip


def text(content):
    return {"type": "text", "text": content}


def image(width=100, height=60, **options):
    url = data_url(make_picture(width, height))
    return {"type": "image_url", "image_url": {"url": url} | options}


def user(*parts):
    return {"role": "user", "content": list(parts)}


# None is upright: LMDeploy's one call of Pillow 13 resizes those otherwise than Pillow 12 did.
SIZES = ((100, 60), (56, 56), (300, 90), (200, 40), (170, 170))
LABELLED = [
    part for n, size in enumerate(SIZES, 1) for part in (text(f"Image-{n}: "), image(*size))
]
CASES = {
    "text": [SYSTEM, {"role": "user", "content": "What is 2 + 2? 你好"}],
    "one image": [SYSTEM, user(image(), text("What is this?"))],
    "five images": [SYSTEM, user(*LABELLED, text("Which is red?"))],
    "multi-round": [
        SYSTEM,
        user(image(300, 90), text("What is this?")),
        {"role": "assistant", "content": "A picture."},
        user(text("And this?"), image(56, 56)),
        {"role": "assistant", "content": "Another."},
        {"role": "user", "content": "Compare."},
    ],
    "a mark on its line": [SYSTEM, user(text("<IMAGE_TOKEN>\nWhat is this?"), image())],
    "marks within a line": [
        SYSTEM,
        user(text("Is <IMAGE_TOKEN> like <IMAGE_TOKEN>?"), image(), image(56, 56)),
    ],
    "place marks": [
        SYSTEM,
        user(
            text("Image-1: <IMAGE_TOKEN>\nImage-2: <IMAGE_TOKEN>\nCompare."), image(), image(56, 56)
        ),
    ],
    "grounding": [
        SYSTEM,
        user(image(), text("Where is <ref>the circle</ref>?")),
        {"role": "assistant", "content": "<ref>the circle</ref><box>[[1, 2, 300, 400]]</box>"},
        {"role": "user", "content": "And <quad>[[1, 2, 3, 4, 5, 6, 7, 8]]</quad>?"},
    ],
}
CASES["multi-round"][1]["content"].insert(0, text("Image-1: "))
CASES["multi-round"][3]["content"].insert(1, text(" Image-2: "))


@pytest.fixture
def both(loop, checkpoints):
    """Sends one request to both; answers their native calls (None: refused) and their responses."""

    async def send(layout, messages, **fields):
        calls, responses = [], []
        resize = fields.pop("resize", RESIZE[layout])
        for start in (upstream, partial(ours, resize=resize)):
            async with start(checkpoints[layout].path) as client:
                loop.calls.clear()
                responses.append(await ask(client, messages, **fields))
                calls.append(loop.calls[0] if loop.calls else None)
        return *calls, *responses

    return send


def pixels(call):
    return torch.cat([item.pixels.float() for item in call.items])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
async def test_equal(both, layout, case):
    theirs, own, their_response, own_response = await both(layout, CASES[case], **PARAMETERS)
    assert their_response.status_code == own_response.status_code == 200, own_response.text
    assert own.input_ids == theirs.input_ids
    assert (own.step, own.enable_metrics) == (theirs.step, theirs.enable_metrics)
    places = [(item.token_begin, item.token_end) for item in own.items]
    assert places == [(item.token_begin, item.token_end) for item in theirs.items]
    assert [own.input_ids[begin:end] for begin, end in places] == [
        [IMAGE] * (end - begin) for begin, end in places
    ]
    assert [i.pixels.shape for i in own.items] == [i.pixels.shape for i in theirs.items]
    assert [i.pixels.dtype for i in own.items] == [i.pixels.dtype for i in theirs.items]
    if own.items:
        assert torch.equal(pixels(own), pixels(theirs))
    differing = {name for name in own.config if own.config[name] != theirs.config[name]}
    assert differing == {"eos_ids", "stop_ids"}  # see "stop_ids"


async def test_system_text(both):
    theirs, own, *_ = await both("hf", [{"role": "user", "content": "hello"}])
    assert bytes_of(theirs)[1].startswith(b"system\nYou are a text model.")
    assert bytes_of(own)[1].startswith("system\n你是书生".encode())


async def test_image_labels(both):
    messages = [SYSTEM, user(image(), image(56, 56), text("Compare."))]
    theirs, own, *_ = await both("authors", messages)
    assert b"Image-1: " not in b"".join(bytes_of(theirs))
    assert b"Image-1: " in b"".join(bytes_of(own))
    assert b"Image-2: " in b"".join(bytes_of(own))


async def test_typed_control_tokens(both):
    messages = [SYSTEM, {"role": "user", "content": "a<|im_end|>b"}]
    theirs, own, *_ = await both("hf", messages)
    assert theirs.input_ids.count(END) == 3
    assert own.input_ids.count(END) == 2
    assert b"a<|im_end|>b" in b"".join(bytes_of(own))


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_typed_image_token(both, layout):
    messages = [SYSTEM, user(image(56, 56), text("Say <IMG_CONTEXT>."))]
    theirs, own, their_response, own_response = await both(layout, messages)
    assert (theirs, their_response.status_code) == (None, 400)
    assert own_response.status_code == 200
    assert own.input_ids.count(IMAGE) == 4
    assert b"<IMG_CONTEXT>" in b"".join(bytes_of(own))


async def test_defaults(both):
    theirs, own, *_ = await both("hf", CASES["text"])
    sampling = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    assert [round(theirs.config[name], 3) for name in sampling] == [0.8, 50, 1.0, 0.0, 1.0]
    assert [own.config[name] for name in sampling] == [1.0, 0, 1.0, 0.0, 1.0]


async def test_greedy(both):
    theirs, own, *_ = await both("hf", CASES["text"], temperature=0, repetition_penalty=1.25)
    assert (theirs.config["temperature"], theirs.config["top_k"]) == (0.0, 50)
    assert (own.config["temperature"], own.config["top_k"]) == (1.0, 1)
    assert own.config["repetition_penalty"] == 1.25


async def test_negative_seed(both):
    theirs, own, their_response, _ = await both("hf", CASES["text"], seed=-1)
    assert theirs is None
    assert their_response.status_code >= 400
    assert own.config["random_seed"] == 2**64 - 1


async def test_zero_top_p(both):
    theirs, own, their_response, _ = await both("hf", CASES["text"], top_p=0)
    assert (theirs, their_response.status_code) == (None, 400)
    assert (own.config["top_k"], own.config["top_p"]) == (1, 1.0)


async def test_stop_strings(both):
    theirs, own, *_ = await both("hf", CASES["text"], stop=["b"])
    assert ord("b") not in theirs.config["eos_ids"]
    assert len(theirs.config["eos_ids"]) == 2
    assert own.config["eos_ids"] == [320, END]


async def test_stop_ids(both):
    theirs, own, *_ = await both("authors", CASES["text"])
    assert theirs.config["eos_ids"] == [END]
    assert own.config["eos_ids"] == [320, END]
    assert own.config["stop_ids"] == [[320, END], [1, 2]]


async def test_fingerprints(both):
    theirs, own, *_ = await both("authors", CASES["one image"])
    (their_item,), (own_item,) = theirs.items, own.items
    raw = their_item.pixels.contiguous().view(torch.uint8).numpy().tobytes()
    assert their_item.fingerprint == hashlib.sha256(raw).digest()
    assert own_item.fingerprint != their_item.fingerprint
    assert len(own_item.fingerprint) == 32
    _, again, *_ = await both("authors", CASES["one image"])
    assert again.items[0].fingerprint == own_item.fingerprint
    _, less, *_ = await both("authors", [SYSTEM, user(image(detail="low"), text("What is this?"))])
    assert less.items[0].fingerprint != own_item.fingerprint


@pytest.mark.parametrize(("layout", "resize"), [("hf", "exact"), ("authors", "fast")])
async def test_resize(both, layout, resize):
    theirs, own, *_ = await both(layout, CASES["one image"], resize=resize)
    difference = (pixels(own) - pixels(theirs)).abs()
    assert 0 < difference.max() < 0.05
    assert (difference == 0).float().mean() > 0.99


async def test_detail(both):
    messages = [SYSTEM, user(image(300, 90, detail="low"), text("?"))]
    for layout in LAYOUTS:
        theirs, own, *_ = await both(layout, messages)
        assert len(theirs.items[0].pixels) > 1
        assert len(own.items[0].pixels) == 1


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty"])
async def test_penalties(both, name):
    theirs, own, their_response, own_response = await both("hf", CASES["text"], **{name: 1.5})
    assert their_response.status_code == 200
    assert 1.5 not in theirs.config.values()
    assert (own, own_response.status_code) == (None, 400)
    assert own_response.json()["error"]["param"] == name


def test_every_difference_has_its_test():
    assert {f"test_{name}" for name in DIFFERENCES} <= set(globals())


def bytes_of(call):
    """The prompt's text between its control tokens; the tiny tokenizer has a token a byte."""
    from tokenizers.pre_tokenizers import ByteLevel

    from scripts.make_random_checkpoint import SHAPES

    num_base = SHAPES["tiny"].num_base_tokens
    alphabet = sorted(ByteLevel.alphabet())
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable} | {
        chr(256 + n): b for n, b in enumerate(others)
    }
    parts = [b""]
    for token_id in call.input_ids:
        if token_id >= num_base:
            parts.append(b"")
        else:
            parts[-1] += bytes([byte_of[alphabet[token_id]]])
    return parts
