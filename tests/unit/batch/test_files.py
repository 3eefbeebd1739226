import io
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from internvl_server.batch.ledger import Ledger
from internvl_server.batch.lines import BatchError, BatchLine, answer_line, failure_line, read_lines
from internvl_server.batch.output import open_output
from internvl_server.errors import InvalidRequestError

BODY = {"model": "m", "messages": []}
LINE = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": BODY}


def read(text: str | bytes, max_line_bytes: int = 1000) -> list[BatchLine]:
    data = text.encode() if isinstance(text, str) else text
    return list(read_lines(io.BytesIO(data), max_line_bytes))


class TestInput:
    def test_lines(self) -> None:
        text = json.dumps(LINE) + "\n\n  \r\n" + json.dumps(LINE | {"custom_id": "b"})
        first, second = read(text)
        assert (first.number, first.custom_id) == (1, "a")
        assert (second.number, second.custom_id) == (4, "b")
        assert json.loads(second.body()) == BODY

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            ("{", "line 2 is not valid JSON"),
            ("[]", "line 2 is not a JSON object"),
            ("{}", "line 2 has no custom_id"),
            ('{"custom_id": ""}', "line 2 has no custom_id"),
            ('{"custom_id": 5}', "line 2 has no custom_id"),
            ('{"custom_id": "\\ud800"}', "line 2 is not valid JSON"),
            ('{"custom_id": "' + "x" * 1000 + '"}', "line 2 is longer than 1000 bytes"),
        ],
    )
    def test_what_is_no_line_is_named(self, bad: str, message: str) -> None:
        with pytest.raises(BatchError, match=message):
            read(f"{json.dumps(LINE)}\n{bad}\n")

    def test_a_line_may_be_as_long_as_the_limit(self) -> None:
        text = json.dumps(LINE)
        assert read(text, len(text))[0].custom_id == "a"
        with pytest.raises(BatchError):
            read(text, len(text) - 1)

    @pytest.mark.parametrize(
        ("change", "param"),
        [
            ({"method": "GET"}, "method"),
            ({"url": "/v1/embeddings"}, "url"),
            ({"url": ["/v1/chat/completions"]}, "url"),
            ({"body": None}, "body"),
            ({"body": BODY | {"stream": True}}, "stream"),
            ({"nope": 1}, "nope"),
        ],
    )
    def test_what_a_batch_cannot_do_is_refused_by_name(
        self, change: dict[str, object], param: str
    ) -> None:
        [line] = read(json.dumps(LINE | change))
        with pytest.raises(InvalidRequestError) as caught:
            line.body()
        assert caught.value.param == param

    def test_a_body_that_does_not_stream_is_sent_as_it_is(self) -> None:
        body = BODY | {"stream": False, "temperature": 0.1, "user": "世界", "seed": 2**63}
        [line] = read(json.dumps(LINE | {"body": body}))
        assert json.loads(line.body()) == body


class TestOutputLines:
    def test_an_answer(self) -> None:
        line = json.loads(answer_line("ä", 200, "r1", b'{"choices": []}'))
        assert line.pop("id").startswith("batch_req_")
        body = {"status_code": 200, "request_id": "r1", "body": {"choices": []}}
        assert line == {"custom_id": "ä", "response": body, "error": None}

    def test_an_answer_that_is_no_json(self) -> None:
        line = json.loads(answer_line("a", 502, "", b"<html>\xff\n"))
        assert line["response"]["body"] == "<html>\ufffd\n"

    def test_failures(self) -> None:
        refused = failure_line("a", InvalidRequestError("no", param="url"))
        assert json.loads(refused)["response"]["body"]["error"]["param"] == "url"
        lost = json.loads(failure_line("a", "refused"))
        assert lost["response"] is None
        assert lost["error"] == {"code": "not_executed", "message": "refused"}
        assert json.loads(refused)["id"] != lost["id"]


class TestLedger:
    def test_each_line_once(self) -> None:
        with Ledger() as ledger:
            assert [ledger.add(i) for i in ("a", "b", "a", "A", "b ")] == [
                True, True, False, True, True,
            ]  # fmt: skip
            assert ledger.counts() == (4, 0, 0)

    def test_what_became_of_them(self) -> None:
        with Ledger() as ledger:
            for custom_id in "abc":
                ledger.add(custom_id)
            ledger.settle("a", is_success=True)
            ledger.settle("b", is_success=False)
            ledger.settle("b of another batch", is_success=True)
            assert ledger.counts() == (1, 1, 1)
            assert [ledger.is_settled(i) for i in ("a", "b", "c", "d")] == [
                True, True, False, False,
            ]  # fmt: skip


ANSWERS = [
    answer_line("a", 200, "r", b'{"x": "\\u4e16"}'),
    failure_line("b", "connection lost"),
    answer_line("c", 400, "r", b"{}"),
    answer_line("d", 200, "r", b"[]"),
]
WHOLE = "".join(f"{line}\n" for line in ANSWERS).encode()


def ids(path: Path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in path.read_text().splitlines()]


class TestOutputFile:
    def test_a_new_file(self, tmp_path: Path) -> None:
        with Ledger() as ledger, open_output(tmp_path / "out", ledger) as output:
            output.write(ANSWERS[0])
            assert (tmp_path / "out").read_text() == ANSWERS[0] + "\n"  # without being closed

    @settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(num_bytes=st.integers(0, len(WHOLE)))
    def test_a_file_cut_off_anywhere_is_taken_up(self, tmp_path: Path, num_bytes: int) -> None:
        path = tmp_path / "out"
        path.write_bytes(WHOLE[:num_bytes])
        with Ledger() as ledger:
            for custom_id in "abcd":
                ledger.add(custom_id)
            with open_output(path, ledger) as output:
                settled = [i for i in "abcd" if ledger.is_settled(i)]
                assert ids(path) == settled
                for line, custom_id in zip(ANSWERS, "abcd", strict=True):
                    if custom_id not in settled:
                        output.write(line)
        assert sorted(ids(path)) == list("abcd")
        assert "b" not in settled  # it has no answer: it is done again
        assert list(tmp_path.iterdir()) == [path]

    def test_answers_are_told_from_refusals(self, tmp_path: Path) -> None:
        (tmp_path / "out").write_bytes(WHOLE)
        with Ledger() as ledger:
            for custom_id in "abcd":
                ledger.add(custom_id)
            with open_output(tmp_path / "out", ledger):
                assert ledger.counts() == (1, 2, 1)

    @pytest.mark.parametrize("content", [b"notes", b"{}\n", WHOLE + b"other\n", b"\n"])
    def test_other_files_are_left_alone(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "out"
        path.write_bytes(content)
        with Ledger() as ledger, pytest.raises(BatchError), open_output(path, ledger):
            pass
        assert path.read_bytes() == content

    @pytest.mark.parametrize("content", [b"", WHOLE, WHOLE[:-5]])
    def test_one_run_at_a_time(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "out"
        path.write_bytes(content)
        with Ledger() as ledger:
            with (
                open_output(path, ledger),
                pytest.raises(BatchError, match="another run"),
                open_output(path, ledger),
            ):
                pass
            with open_output(path, ledger):
                pass
