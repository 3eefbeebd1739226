import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from internvl_server.batch.files import (
    BatchError,
    ResultFile,
    answer,
    not_executed,
    open_results,
)


def reply(status: int, body: bytes = b"{}", request_id: str = "r1") -> httpx2.Response:
    return httpx2.Response(status, headers={"x-request-id": request_id}, content=body)


def test_an_answer() -> None:
    body = {"status_code": 200, "request_id": "r1", "body": {"choices": []}}
    result = answer("ä", reply(200, b'{"choices": []}'))
    assert result == {"custom_id": "ä", "response": body, "error": None}


def test_an_answer_that_is_not_json() -> None:
    assert answer("a", reply(502, b"<html>\xff\n"))["response"]["body"] == "<html>\ufffd\n"


def test_a_request_without_an_answer() -> None:
    lost = not_executed("a", "refused")
    assert lost["response"] is None
    assert lost["error"] == {"code": "not_executed", "message": "refused"}


RESULTS = [
    answer("a", reply(200, b'{"x": "\\u4e16"}')),
    not_executed("b", "connection lost"),
    answer("c", reply(400)),
    answer("d", reply(200, b"[]")),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "out"
    write(path, RESULTS)
    return path.read_bytes()


def write(path: Path, results: list[dict[str, Any]]) -> None:
    with open_results(path) as file:
        for result in results:
            file.write(result)


def ids(path: Path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in path.read_text().splitlines()]


def test_a_result_is_on_file_once_it_is_written(tmp_path: Path) -> None:
    with open_results(tmp_path / "out") as file:
        assert [file.write(result) for result in RESULTS] == [True, False, False, True]
        lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    names = [line.pop("id") for line in lines]
    assert lines == RESULTS
    assert len({name for name in names if name.startswith("batch_req_")}) == 4


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(num_bytes=st.integers(0, 700))
def test_a_file_cut_off_anywhere_is_continued(tmp_path: Path, whole: bytes, num_bytes: int) -> None:
    assert len(whole) < 700
    path = tmp_path / "out"
    path.write_bytes(whole[:num_bytes])
    with open_results(path) as file:
        finished = list(file.outcomes)
        assert ids(path) == finished
        for result in RESULTS:
            if result["custom_id"] not in finished:
                file.write(result)
    assert sorted(ids(path)) == list("abcd")
    assert "b" not in finished  # it has no response: the next run sends it again
    assert list(tmp_path.iterdir()) == [path]


def test_successes_are_told_from_errors(tmp_path: Path, whole: bytes) -> None:
    (tmp_path / "out").write_bytes(whole)
    with open_results(tmp_path / "out") as file:
        assert file.outcomes == {"a": True, "c": False, "d": True}


@pytest.mark.parametrize("content", [b"notes", b"{}\n", b"\n", None])
def test_other_files_are_left_alone(tmp_path: Path, whole: bytes, content: bytes | None) -> None:
    path = tmp_path / "out"
    before = whole + b"other\n" if content is None else content
    path.write_bytes(before)
    with pytest.raises(BatchError, match="not the output of a batch"), open_results(path):
        pass
    assert path.read_bytes() == before


@pytest.mark.parametrize("num_bytes", [0, None, -5])
def test_one_run_at_a_time(tmp_path: Path, whole: bytes, num_bytes: int | None) -> None:
    path = tmp_path / "out"
    path.write_bytes(whole[:num_bytes])
    with (
        open_results(path),
        pytest.raises(BatchError, match="another run"),
        open_results(path),
    ):
        pass
    with open_results(path) as file:
        assert isinstance(file, ResultFile)
