"""`internvl-server batch` as a process: with an echo engine, and against a running server."""

import contextlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from internvl_server.cli import main

from tests.live.test_streams import wait_until
from tests.live_server import LiveServer

ROOT = Path(__file__).parents[2]


def request_line(custom_id: str, text: str = "hi", **fields: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": text}]
    body = {"model": "tiny", "messages": messages} | fields
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


class Batch:
    """One input and output file, and the command on them."""

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        self.input, self.output = folder / "in.jsonl", folder / "out.jsonl"
        self.engine = ["--model", str(checkpoint), "--engine", "echo"]

    def write(self, *lines: dict[str, Any]) -> None:
        self.input.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def start(self, *options: str, **streams: Any) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "internvl_server",
            "batch",
            str(self.input),
            "-o",
            str(self.output),
        ]
        return subprocess.Popen(
            [*command, *options], cwd=ROOT, text=True, **{"stderr": subprocess.PIPE} | streams
        )

    def run(self, *options: str) -> tuple[int, str]:
        process = self.start(*(options or self.engine))
        _, said = process.communicate(timeout=120)
        return process.returncode, said

    def results(self) -> dict[str, Any]:
        lines = [json.loads(line) for line in self.output.read_text().splitlines()]
        assert len({line["custom_id"] for line in lines}) == len(lines)
        return {line["custom_id"]: line for line in lines}


@pytest.fixture
def batch(tmp_path: Path, tiny_checkpoint: Path) -> Batch:
    return Batch(tmp_path, tiny_checkpoint)


def test_all_lines_succeed(batch: Batch, picture_url: Callable[..., str]) -> None:
    picture = [{"type": "image_url", "image_url": {"url": picture_url()}}]
    shown = request_line("picture")
    shown["body"]["messages"][1]["content"] = picture
    batch.write(*(request_line(f"{n}", f"text {n}") for n in range(8)), shown)
    assert batch.run()[0] == 0
    results = batch.results()
    assert len(results) == 9
    for n in range(8):
        answer = results[f"{n}"]["response"]
        assert answer["status_code"] == 200
        assert answer["request_id"]
        content = answer["body"]["choices"][0]["message"]["content"]
        assert content == f"system\ns\nuser\ntext {n}\nassistant\n"
    assert results["picture"]["response"]["body"]["usage"]["prompt_tokens_details"]["image_tokens"]


def test_others_cannot_look_into_the_process(batch: Batch) -> None:
    """It has the keys of a server, or the images of the batch."""
    batch.write(request_line("1"))
    code = (
        "import ctypes, sys; from internvl_server.cli import main; main(sys.argv[1:]); "
        "print('dumpable:', ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    )
    arguments = ["batch", str(batch.input), "-o", str(batch.output), *batch.engine]
    command = [sys.executable, "-c", code, *arguments]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.stdout == "dumpable: 0\n", ran.stderr


def test_failures_are_written_and_set_the_exit_code(batch: Batch) -> None:
    batch.write(
        request_line("good"),
        request_line("stream", stream=True),
        request_line("bad", temperature=9),
        request_line("other") | {"url": "/v1/embeddings"},
    )
    code, said = batch.run()
    assert code == 1
    assert "1 succeeded, 3 failed, 0 left" in said
    results = batch.results()
    errors = {i: results[i]["response"]["body"]["error"]["param"] for i in results if i != "good"}
    assert errors == {"stream": "stream", "bad": "temperature", "other": "url"}
    before = batch.output.read_text()
    assert batch.run()[0] == 1  # a later run has nothing to do, and says the same
    assert batch.output.read_text() == before


def test_every_endpoint(batch: Batch) -> None:
    legacy = {"url": "/v1/completions", "body": {"model": "tiny", "prompt": ["a", "b"]}}
    newer = {"url": "/v1/responses", "body": {"model": "tiny", "input": "hi", "store": False}}
    hello = [{"role": "user", "content": "hi"}]
    message = {
        "url": "/v1/messages",
        "body": {"model": "tiny", "messages": hello, "max_tokens": 300},
    }
    lines = {"chat": {}, "old": legacy, "new": newer, "message": message}
    batch.write(*[request_line(name) | members for name, members in lines.items()])
    assert batch.run()[0] == 0
    bodies = {i: line["response"]["body"] for i, line in batch.results().items()}
    assert [choice["text"] for choice in bodies["old"]["choices"]] == ["a", "b"]
    assert bodies["new"]["object"] == "response"
    assert bodies["message"]["type"] == "message"


def test_wrong_files_and_options_change_nothing(
    batch: Batch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*options: str, source: Path = batch.input, target: Path = batch.output) -> str:
        assert main(["batch", str(source), "-o", str(target), *options]) == 2
        return capsys.readouterr().err

    batch.write(request_line("a"), request_line("b"), request_line("a"))
    assert "line 3 has the custom_id of an earlier one: 'a'" in refused(*batch.engine)
    assert "combined with --url" in refused("--url", "http://127.0.0.1:1/v1", *batch.engine)
    assert not batch.output.exists()
    batch.write(request_line("a"))
    assert "another file" in refused(target=batch.input)
    assert "not the output of a batch" in refused(target=ROOT / "README.md")
    assert "missing" in refused(source=tmp_path / "missing")
    assert "limits" in refused("--set", "limits.nope=1")
    with pytest.raises(SystemExit) as caught:
        main(["batch", str(batch.input), "-o", str(batch.output), "--concurrency", "0"])
    assert caught.value.code == 2
    assert batch.run("--url", "ftp://x")[0] == 2


def test_a_running_server_is_used(start_server: Callable[..., LiveServer], batch: Batch) -> None:
    server = start_server(server={"api_keys": ["secret"]}, limits={"max_in_flight": 1})
    batch.write(*(request_line(f"{n}") for n in range(4)))
    url = ["--url", f"{server.url}/v1/"]
    code, said = batch.run(*url)
    assert code == 1
    assert "The server asks for a key that it knows (401). Give one with --api-key" in said
    assert not batch.results()  # so that the next run sends all of them
    code, _ = batch.run(*url, "--set", 'server.api_keys=["secret"]')  # refusals with 429 pass
    assert code == 0
    assert server.engine.num_finished == 4


def test_lines_without_an_answer_are_sent_by_the_next_run(
    batch: Batch, echo_server: LiveServer
) -> None:
    batch.write(request_line("a"))
    assert batch.run("--url", "http://127.0.0.1:1", "--max-retries", "0")[0] == 1
    assert batch.results()["a"]["error"]["code"] == "not_executed"
    assert batch.run("--url", echo_server.url)[0] == 0
    assert batch.results()["a"]["response"]["status_code"] == 200


def wait_for_lines(path: Path, num_lines: int) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < num_lines:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_stopped_batch_is_resumed(batch: Batch) -> None:
    batch.write(*(request_line(f"{n}") for n in range(200)))
    slow = ["--concurrency", "2", "--set", "engine.echo.token_delay_s=0.02"]
    process = batch.start(*batch.engine, *slow)
    wait_for_lines(batch.output, 2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, said
    assert "Traceback" not in said
    num_done = len(batch.results())
    assert 2 <= num_done < 200
    with batch.output.open("a") as file:
        file.write('{"id":"batch_req_torn","custom')
    code, said = batch.run()
    assert code == 0
    assert f"{num_done} were done before" in said
    assert len(batch.results()) == 200


def test_a_second_signal_does_not_wait(
    start_server: Callable[..., LiveServer], batch: Batch
) -> None:
    server = start_server(engine={"echo": {"hang_after_tokens": 1}})
    batch.write(request_line("hangs"))
    process = batch.start("--url", server.url)
    wait_until(lambda: server.engine.num_started == 1, 60)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert any("a second signal aborts" in line for line in iter(process.stderr.readline, ""))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, said
    assert "Traceback" not in said
    assert batch.output.read_text() == ""


def test_progress_is_shown_on_a_terminal_only(batch: Batch) -> None:
    batch.write(*(request_line(f"{n}") for n in range(5)))
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    process = batch.start(*batch.engine, stderr=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # a terminal whose other end is closed
        while piece := os.read(ours, 65536):
            shown += piece
    os.close(ours)
    assert process.wait(timeout=120) == 0
    assert b"5/5" in shown
    batch.output.unlink()
    assert "/5" not in batch.run()[1]


def test_a_model_that_cannot_be_served_is_named(batch: Batch) -> None:
    batch.write(request_line("a"))
    code, said = batch.run("--model", "/nonexistent", "--engine", "echo")
    assert code == 1
    assert "there is no folder" in said


@pytest.mark.model
def test_the_command_of_the_documentation(tmp_path: Path) -> None:
    page = (ROOT / "server/docs/batch.md").read_text(encoding="utf-8")
    found = re.search(r"^internvl-server (batch .*)", page, re.MULTILINE)
    assert found is not None
    *options, output = shlex.split(found.group(1))
    assert output == "answers.jsonl"
    answers = tmp_path / output
    done = subprocess.run(
        [sys.executable, "-m", "internvl_server", *options, str(answers)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    assert {line["custom_id"] for line in lines} == {"who", "picture"}
    for line in lines:
        assert line["response"]["body"]["choices"][0]["message"]["content"]
