"""`internvl-server chat` as a process: in a pipe and in a terminal, against this server and a plain stub."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from internvl_server.settings import EchoSettings

from scripts.load.openai_stub import Stub, listening
from tests.live_server import LiveServer
from tests.terminal import Terminal

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "internvl_server", "chat"]
SLOW = {"kind": "echo", "echo": {"token_delay_s": 0.02}}


def piped(
    *options: str, said: bytes = b"", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *options], input=said, cwd=ROOT, capture_output=True, timeout=240, check=False,
        env=os.environ | (env or {}),
    )  # fmt: skip


def started(*options: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen([*COMMAND, *options], cwd=ROOT, stdout=pipe, stderr=pipe)


def talking(*options: str, **variables: str) -> Terminal:
    return Terminal("chat", *options, **variables)


@pytest.fixture
def slow_server(start_server: Callable[..., LiveServer]) -> LiveServer:
    return start_server(engine=SLOW)


@pytest.fixture
def terminal(echo_server: LiveServer) -> Iterator[Terminal]:
    with talking("--url", f"{echo_server.url}/v1") as opened:
        opened.read_until("> ")
        yield opened


def test_a_pipe_gets_only_the_answer(echo_server: LiveServer) -> None:
    done = piped("--url", f"{echo_server.url}/v1", said="Grüße\n".encode())
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().endswith("user\nGrüße\nassistant\n")
    assert b"\x1b" not in done.stdout


def test_an_answer_that_is_cut_off_is_named_on_stderr(echo_server: LiveServer) -> None:
    done = piped("--url", echo_server.url, "--max-tokens", "2", "hi")
    assert done.returncode == 0
    assert b"ended by length" in done.stderr
    assert b"tokens" not in done.stdout


async def test_what_is_sent() -> None:
    async with listening(Stub()) as stub:
        url = f"http://127.0.0.1:{stub.port}"
        options = ["--url", url, "--system", "Be brief.", "--temperature", "0", "--max-tokens", "9"]
        options += ["--image", "tests/data/example.jpg", "--video", "https://example.org/a.mp4"]
        done = await asyncio.to_thread(piped, *options, "What is this?", said=b"not read")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"www\n", b"")
    [body] = stub.bodies
    system, question = body["messages"]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("stub", 0, 9)
    assert (system["role"], system["content"]) == ("system", "Be brief.")
    image, video, text = question["content"]
    assert image["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/")
    assert video["video_url"]["url"] == "https://example.org/a.mp4"
    assert text["text"] == "What is this?"


async def test_failures_are_named_on_stderr() -> None:
    async with listening(Stub(status_of=lambda _: 429)) as stub:
        refused = await asyncio.to_thread(piped, "--url", f"http://127.0.0.1:{stub.port}", "hi")
    async with listening(Stub(is_cut=True)) as stub:
        cut = await asyncio.to_thread(piped, "--url", f"http://127.0.0.1:{stub.port}", "hi")
    missing = await asyncio.to_thread(piped, "--url", f"http://127.0.0.1:{stub.port}", "hi")
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert refused.stderr == b"internvl-server: status 429: scripted\n"
    assert (cut.returncode, cut.stdout) == (1, b"www\n")
    assert b"ended before the answer did" in cut.stderr
    assert (missing.returncode, missing.stdout) == (1, b"")
    assert b"Connection refused. Is it running, and --url right?" in missing.stderr


@pytest.mark.parametrize(
    ("options", "said", "message"),
    [
        (["--image", "missing.jpg", "hi"], b"", b"there is no file missing.jpg"),
        (["--video", "README.md", "hi"], b"", b"not of the kind video"),
        ([], b" \n", b"there is no question"),
        ([], b"\xff", b"not UTF-8"),
        (["--image", "~nobody-here/a.jpg", "hi"], b"", b"there is no file ~nobody-here/a.jpg"),
        (["--temperature", "-1", "hi"], b"", b"'-1' is not a number that is at least 0"),
        (["--temperature", "inf", "hi"], b"", b"'inf' is not a number that is at least 0"),
        (["--temperature", "hot", "hi"], b"", b"'hot' is not a number that is at least 0"),
        (["--url", "localhost:8000", "hi"], b"", b"http://HOST:PORT/v1"),
    ],
)
def test_what_cannot_be_used(options: list[str], said: bytes, message: bytes) -> None:
    done = piped(*options, said=said)
    assert (done.returncode, done.stdout) == (2, b"")
    assert message in done.stderr


def test_the_key_is_an_option_or_the_variable_of_openai(
    start_server: Callable[..., LiveServer],
) -> None:
    url = f"{start_server(server={'api_keys': ['right']}).url}/v1"
    assert piped("--url", url, "--api-key", "right", "hi").returncode == 0
    assert piped("--url", url, "hi", env={"OPENAI_API_KEY": "right"}).returncode == 0
    assert piped("--url", url, "hi", env={"OPENAI_API_KEY": "right\r\n"}).returncode == 0
    for options in (["--api-key", "wrong"], ["--api-key", "wrong", "--model", "m"], []):
        wrong = piped("--url", url, *options, "hi", env={"OPENAI_API_KEY": ""})
        assert (wrong.returncode, wrong.stdout) == (1, b"")
        assert b"status 401: Give a valid key" in wrong.stderr
    for key in ("secret\nkey", "schlüssel"):
        unfit = piped("--url", url, "--api-key", key, "hi")
        assert (unfit.returncode, unfit.stdout) == (1, b"")
        assert unfit.stderr.endswith(b"The API key has a character that is not printable ASCII.\n")


def test_an_interrupt_ends_a_single_answer(slow_server: LiveServer) -> None:
    with started("--url", slow_server.url, "word " * 200) as process:
        assert process.stdout.read(4)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, b"")
    slow_server.wait_idle()


def test_a_reader_that_leaves_ends_the_answer(slow_server: LiveServer) -> None:
    with started("--url", slow_server.url, "word " * 200) as process:
        assert process.stdout.read(4)
        process.stdout.close()
        assert process.wait(timeout=60) == 141
        assert process.stderr.read() == b""
    slow_server.wait_idle()


def test_a_conversation_in_a_terminal(terminal: Terminal) -> None:
    terminal.type("say **bold** words\n")
    answer = terminal.read_until(r"tokens/s[^>]*> ")
    assert re.search(r"say bold words", answer), answer
    assert re.search(r"\d+ \+ \d+ tokens, first after \d+\.\d\d s, [\d,.]+ tokens/s", answer), (
        answer
    )
    terminal.type("/image tests/data/example.jpg 'tests/data/second.jpg'\n")
    terminal.read_until(r"2 attached to the next question[^>]*> ")
    terminal.type("two pictures\n")
    assert "two pictures" in terminal.read_until(r"tokens, [^>]*> ").partition("\n")[2]
    terminal.type("/undo\n")
    terminal.read_until(r"dropped the last question[^>]*> ")
    terminal.type("/nothing\n")
    terminal.read_until(r"there is no command /nothing[^>]*> ")
    terminal.type("/help\n")
    terminal.read_until(r"/video PATH_OR_URL …[\s\S]*needs a space before it\.[^>]*> ")
    terminal.type("/quit\n")
    assert terminal.exit_code() == 0


async def test_the_messages_of_a_conversation(tmp_path: Path) -> None:
    picture = tmp_path / "it's one.jpg"
    picture.write_bytes((ROOT / "tests/data/example.jpg").read_bytes())

    def talk(url: str) -> int:
        with talking("--url", url, "--model", "other", TERM="dumb") as terminal:
            terminal.read_until("> ")
            for line in (
                "one", "/system Be brief.", f"/image {picture}", "two \\\nlines", " /three", "/undo",
                "/undo", "four", "/reset", "five",
            ):  # fmt: skip
                terminal.type(f"{line}\n")
                said = terminal.read_until(r"\n> ")
                assert "\x1b" not in said
            terminal.type("\x04")
            return terminal.exit_code()

    async with listening(Stub()) as stub:
        assert await asyncio.to_thread(talk, f"http://127.0.0.1:{stub.port}/v1") == 0
    texts = [[text_of(message) for message in body["messages"]] for body in stub.bodies]
    assert texts == [
        ["one"],
        ["Be brief.", "one", "www", "image, two \nlines"],
        ["Be brief.", "one", "www", "image, two \nlines", "www", "/three"],
        ["Be brief.", "one", "www", "four"],
        ["Be brief.", "five"],
    ]
    assert {body["model"] for body in stub.bodies} == {"other"}


def text_of(message: dict[str, Any]) -> str:
    if isinstance(message["content"], str):
        return message["content"]
    return ", ".join(part.get("text", "image") for part in message["content"])


def test_an_interrupt_stops_an_answer_and_keeps_the_conversation(slow_server: LiveServer) -> None:
    with talking("--url", slow_server.url, "--max-tokens", "100") as terminal:
        terminal.read_until("> ")
        slow_server.engine._settings = EchoSettings(token_delay_s=0.3)
        terminal.type("one\n")
        terminal.read_until("system")  # the echo engine repeats the whole prompt
        terminal.type("\x03")
        terminal.read_until(r"stopped[^>]*> ")
        slow_server.wait_idle()
        slow_server.engine._settings = EchoSettings()
        terminal.type("two\n")
        terminal.read_until(r"100 tokens, .* tokens/s, ended by length[^>]*> ")
        terminal.type("/undo\n")
        terminal.read_until(r"dropped the last question and its answer[^>]*> ")
        terminal.type("/undo\n")
        terminal.read_until(r"dropped the last question and its answer[^>]*> ")
        assert terminal.exit_code(key="\x03") == 0


async def test_a_refusal_keeps_what_is_attached() -> None:
    def talk(url: str) -> int:
        with talking("--url", url, "--image", "tests/data/example.jpg") as terminal:
            terminal.read_until("> ")
            terminal.type("one\n")
            terminal.read_until(r"status 503: scripted[^>]*> ")
            terminal.type("two\n")
            terminal.read_until(r"tokens/s[^>]*> ")
            terminal.type("\x04")
            return terminal.exit_code()

    async with listening(Stub(status_of=lambda number: 503 if number == 0 else 200)) as stub:
        assert await asyncio.to_thread(talk, f"http://127.0.0.1:{stub.port}") == 0
    assert [len(body["messages"]) for body in stub.bodies] == [1, 1]
    assert json.dumps(stub.bodies[1]).count("data:image/jpeg;base64,") == 1


def test_a_single_question_in_a_terminal(echo_server: LiveServer) -> None:
    with talking("--url", echo_server.url, "# a heading") as terminal:
        assert terminal.exit_code() == 0
        assert "tokens/s" in terminal.written


@pytest.mark.parametrize("term", ["dumb", "xterm-256color"])
def test_an_answer_cannot_control_the_terminal(echo_server: LiveServer, term: str) -> None:
    question = "one\x1b]0;title\x07\x9b2Jtwo"
    with talking("--url", echo_server.url, question, TERM=term) as terminal:
        assert terminal.exit_code() == 0
    assert "one]0;title2Jtwo" in terminal.written


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"COLUMNS": "8", "LINES": "2"}])
def test_other_terminals(echo_server: LiveServer, variables: dict[str, str]) -> None:
    question = (
        "# Head\n\n- `a`\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n\n```python\nprint(1)\n```\n"
    )
    with talking("--url", echo_server.url, question, **variables) as terminal:
        assert terminal.exit_code() == 0
    assert "Traceback" not in terminal.written
    colour = re.search(r"\x1b\[[0-9;]*(3[0-7]|38;)", terminal.written)
    assert (colour is None) == ("NO_COLOR" in variables), terminal.written


def test_lines_that_are_no_paths_do_not_end_a_conversation(terminal: Terminal) -> None:
    terminal.type(f"/image https://example.org/a.jpg?{'a' * 300}\n")
    terminal.read_until(r"1 attached to the next question[^>]*> ")
    terminal.type("/image ~nobody-here/a.jpg\n")
    terminal.read_until(r"there is no file ~nobody-here/a\.jpg[^>]*> ")


def test_paths_are_completed(terminal: Terminal) -> None:
    terminal.type("/image tests/data/exam\t")
    terminal.read_until(r"tests/data/example\.")
    terminal.type("jpg\n")
    terminal.read_until("1 attached to the next question")


def test_only_answers_go_to_standard_output(echo_server: LiveServer) -> None:
    ours, theirs = os.openpty()
    command = [*COMMAND, "--url", echo_server.url]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        os.close(theirs)
        os.write(ours, b"**one**\n/undo\n/quit\n")
        out, err = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0
    assert out.decode().endswith("user\n**one**\nassistant\n")
    assert out.count(b"assistant") == 1
    assert b"dropped the last question" in err
