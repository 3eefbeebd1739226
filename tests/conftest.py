"""What all tests share: a tiny checkpoint, servers on real sockets, clients, pictures."""

import base64
import importlib.util
import io
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from internvl_server.prompt.tokenizer import PromptTokenizer, load_tokenizer
from internvl_server.serve import writing
from PIL import Image

from scripts.make_random_checkpoint import SHAPES, write_checkpoint
from tests.live_server import LiveServer, start_echo_server

# It is ignored where a shell started the tests in the background, and so in the programs that they interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# scripts/test-ray and scripts/test-helm run these, where their tools are installed.
_TOOLS = {"ray": "ray", "kubernetes": "kubernetes_validate"}
collect_ignore = [folder for folder, tool in _TOOLS.items() if not importlib.util.find_spec(tool)]

# The time of a single example depends on what else the machine does.
hypothesis.settings.register_profile("no-deadline", deadline=None)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=10_000)
hypothesis.settings.load_profile(
    "nightly" if os.environ.get("FUZZ") == "nightly" else "no-deadline"
)


@pytest.fixture(autouse=True)
def keep_pillows_limit() -> Iterator[None]:
    """Decoding in the process of the tests sets it, as it does in a worker."""
    limit = Image.MAX_IMAGE_PIXELS
    yield
    Image.MAX_IMAGE_PIXELS = limit


@pytest.fixture(autouse=True)
def wait_for_late_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test may not be scheduled for seconds before it reads the answer that refuses its connection."""
    monkeypatch.setattr(writing, "_LINGER_S", 60.0)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight checkpoint in transformers' layout, with a byte-level tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    write_checkpoint(folder, SHAPES["tiny"], layout="hf", dtype="float32", seed=0)
    return folder


@pytest.fixture(scope="session")
def thinking_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One like InternVL3.5, whose tokenizer has the tags of reasoning."""
    folder = tmp_path_factory.mktemp("checkpoints") / "thinking"
    write_checkpoint(folder, SHAPES["tiny-qwen3"], layout="hf", dtype="float32", seed=0)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tiny_checkpoint: Path) -> PromptTokenizer:
    return load_tokenizer(tiny_checkpoint)


@pytest.fixture(scope="session")
def echo_server(tiny_checkpoint: Path) -> Iterator[LiveServer]:
    """The whole server on a loopback port, with the echo engine."""
    with start_echo_server(tiny_checkpoint) as server:
        yield server


@pytest.fixture
def start_server(tiny_checkpoint: Path) -> Iterator[Callable[..., LiveServer]]:
    """Starts echo servers with settings of the test's own."""
    running: list[LiveServer] = []

    def start(**overrides: object) -> LiveServer:
        server = start_echo_server(tiny_checkpoint, **overrides)
        running.append(server)
        return server.__enter__()

    yield start
    for server in running:
        server.__exit__(None, None, None)


def data_url(image: Image.Image, image_format: str = "PNG") -> str:
    """An image as the `data:` URL a client sends."""
    buffer = io.BytesIO()
    image.save(buffer, image_format)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{image_format.lower()};base64,{encoded}"


@pytest.fixture
def picture_url() -> Callable[..., str]:
    """Makes `data:` URLs of plain pictures."""

    def make(width: int = 300, height: int = 200, colour: str = "red") -> str:
        return data_url(Image.new("RGB", (width, height), colour))

    return make
