"""`/metrics` has the figures of what requests did, and nothing that a client sent."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from internvl_server.engine.base import EngineHealth
from internvl_server.settings import Settings
from internvl_server.telemetry.tokens import GAP_BOUNDS, TokenMeter
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.live.test_streams import hold_tokens, wait_until
from tests.live_server import LiveServer
from tests.scripted_engine import ScriptedEngine
from tests.video_files import video, video_url

OUTCOMES = ("ok", "refused", "left", "failed")
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello there"}]}


def read(server: LiveServer) -> dict[str, float]:
    """Every sample as `name{label=value,…}`, once all requests have ended."""
    server.wait_idle()
    return samples(server.get("/metrics").text)


def samples(text: str) -> dict[str, float]:
    found = {}
    for family in parse_text(text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def change(before: dict[str, float], after: dict[str, float], name: str) -> float:
    return after[f"internvl_{name}"] - before.get(f"internvl_{name}", 0.0)


@pytest.fixture
def server(start_server: Callable[..., LiveServer]) -> LiveServer:
    return start_server(engine={"echo": {"token_delay_s": 0.005}})


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_answer_moves_its_figures(server: LiveServer, is_stream: bool) -> None:
    before = read(server)
    answer = server.post({**CHAT, "stream": is_stream})
    assert answer.status_code == 200
    after = read(server)
    num_tokens = change(before, after, "generation_tokens_total")
    assert num_tokens > 2
    assert change(before, after, "inter_token_latency_seconds_count") == num_tokens - 1
    assert change(before, after, "inter_token_latency_seconds_sum") >= 0.005 * (num_tokens - 2)
    assert change(before, after, "request_generation_tokens_sum") == num_tokens
    assert change(before, after, "prompt_tokens_total") == change(
        before, after, "request_prompt_tokens_sum"
    )
    for name in (
        "time_to_first_token_seconds",
        "e2e_request_latency_seconds",
        "request_queue_time_seconds",
        "request_prefill_time_seconds",
        "request_decode_time_seconds",
        "tokenize_seconds",
    ):
        assert change(before, after, f"{name}_count") == 1, name
    assert change(before, after, "request_success_total{finished_reason=stop}") == 1
    route = "route=/v1/chat/completions"
    assert change(before, after, f"requests_total{{outcome=ok,{route}}}") == 1
    assert change(before, after, f"http_responses_total{{{route},status=200}}") == 1


def test_images_are_counted_and_found_again(
    server: LiveServer, picture_url: Callable[..., str]
) -> None:
    picture = {"type": "image_url", "image_url": {"url": picture_url()}}
    content = [picture, {"type": "text", "text": "what?"}]
    body = {**CHAT, "messages": [{"role": "user", "content": content}]}
    before = read(server)
    for _ in range(2):
        assert server.post(body).status_code == 200
    after = read(server)
    num_tiles = change(before, after, "tiles_total")
    assert change(before, after, "images_total") == 2
    assert change(before, after, "image_tokens_total") == 4 * num_tiles > 0
    assert change(before, after, "media_cache_queries_total") == 2
    assert change(before, after, "media_cache_hits_total") == 1
    assert change(before, after, "media_decode_seconds_count") == 1
    assert change(before, after, "media_tile_seconds_count") == 1
    assert after["internvl_media_tile_seconds_sum"] > 0
    assert after["internvl_media_cache_bytes"] > 0
    assert after["internvl_media_cache_entries"] == 1
    assert after["internvl_decode_workers{pool=image}"] > 0
    assert after["internvl_decode_workers_busy{pool=image}"] == 0


def test_videos_are_counted_by_outcome(server: LiveServer, picture_url: Callable[..., str]) -> None:
    frames = {"type": "video", "video": [picture_url()] * 2}
    before = read(server)
    for urls in ([video_url(video())], [video_url(video()), video_url(b"no video")]):
        parts = [{"type": "video_url", "video_url": {"url": url}} for url in urls]
        server.post({**CHAT, "messages": [{"role": "user", "content": parts}]})
    assert (
        server.post({**CHAT, "messages": [{"role": "user", "content": [frames]}]}).status_code
        == 200
    )
    after = read(server)
    assert change(before, after, "images_total") == 8 + 2
    counted = {o: change(before, after, f"videos_total{{outcome={o}}}") for o in OUTCOMES}
    assert counted["refused"] == 1
    assert counted["ok"] + counted["left"] == 3  # one may be left when the request is refused
    assert counted["failed"] == 0


def test_refusals_are_counted_by_code(server: LiveServer) -> None:
    before = read(server)
    assert server.post({**CHAT, "model": "other"}).status_code == 404
    assert server.post(b"{").status_code == 400
    assert server.get("/nope").status_code == 404
    after = read(server)
    for code in ("model_not_found", "invalid_json", "route_not_found"):
        assert change(before, after, f"errors_total{{code={code}}}") == 1
    assert change(before, after, "requests_total{outcome=refused,route=other}") == 1
    refused = change(before, after, "requests_total{outcome=refused,route=/v1/chat/completions}")
    assert refused == 2
    assert change(before, after, "e2e_request_latency_seconds_count") == 0


def test_a_failure_in_a_stream_is_counted_by_its_code(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server(engine={"echo": {"fail_after_tokens": 2}})
    before = read(server)
    assert server.post({**CHAT, "stream": True}).status_code == 200
    after = read(server)
    assert change(before, after, "errors_total{code=engine_error}") == 1
    route = "route=/v1/chat/completions"
    assert change(before, after, f"requests_total{{outcome=failed,{route}}}") == 1


def test_a_client_that_leaves_is_counted(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(engine={"echo": {"hang_after_tokens": 3}})
    before = read(server)
    url = f"{server.url}/v1/chat/completions"
    with httpx2.stream("POST", url, json={**CHAT, "stream": True}, timeout=60) as answer:
        events = answer.iter_bytes()
        next(events)
        running = samples(server.get("/metrics").text)
    assert running["internvl_num_requests_running"] == 1
    assert running["internvl_budget_in_use{budget=engine_slots}"] == 1
    assert change(before, running, "generation_tokens_total") >= 1, "counted while it is generated"
    after = read(server)
    route = "route=/v1/chat/completions"
    assert change(before, after, f"requests_total{{outcome=left,{route}}}") == 1
    assert change(before, after, f"http_responses_total{{{route},status=499}}") == 1
    assert after["internvl_num_requests_running"] == 0


def test_waiting_requests_are_shown(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(engine={"max_num_seqs": 1})
    may_be_made = hold_tokens(server)
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(server.post, {**CHAT, "max_tokens": 10}) for _ in range(4)]
        wait_until(
            lambda: samples(server.get("/metrics").text)["internvl_num_requests_waiting"] >= 2
        )
        may_be_made.release(100)
        assert [answer.result().status_code for answer in answers] == [200] * 4
    assert read(server)["internvl_num_requests_waiting"] == 0


def test_openmetrics_is_written_where_it_is_asked_for(server: LiveServer) -> None:
    kind = "application/openmetrics-text; version=1.0.0"
    answer = server.get("/metrics", headers={"accept": kind})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    names = {family.name for family in parse_open(answer.text)}
    assert {"internvl_build", "internvl_generation_tokens", "internvl_requests"} <= names
    assert server.get("/metrics").headers["content-type"].startswith("text/plain")


def test_nothing_that_a_client_sent_becomes_a_label(server: LiveServer) -> None:
    for _ in range(3):
        server.post({**CHAT, "model": "secret-model"}, headers={"x-request-id": "secret-id"})
        server.get("/secret-path")
        server.get("/v1/models/secret-name")
    assert "secret" not in server.get("/metrics").text


def test_metrics_can_be_turned_off(start_server: Callable[..., LiveServer]) -> None:
    assert start_server(server={"metrics": False}).get("/metrics").status_code == 404


def test_metrics_with_a_separate_port_are_not_on_the_main_one(
    start_server: Callable[..., LiveServer],
) -> None:
    assert start_server(server={"metrics_port": 9400}).get("/metrics").status_code == 404


class Ailing(ScriptedEngine):
    """An engine that ends while the server runs."""

    has_ended = False

    def health(self) -> EngineHealth:
        if self.has_ended:
            return EngineHealth(False, "It has ended.", is_alive=False, silence_s=99.0)
        return super().health()


def test_an_engine_that_has_ended_is_shown(tiny_checkpoint: Path) -> None:
    engine = Ailing(end_id=0)
    with LiveServer(Settings(model={"path": str(tiny_checkpoint)}), engine) as server:
        for name in ("ready", "alive"):
            assert f"internvl_engine_{name} 1.0\n" in server.get("/metrics").text
        engine.has_ended = True
        text = server.get("/metrics").text
    for line in ("ready 0.0", "alive 0.0", "silence_seconds 99.0"):
        assert f"internvl_engine_{line}\n" in text


class Answer:
    num_tokens = 3


def test_gaps_are_sorted_into_buckets_while_others_add_some() -> None:
    meter = TokenMeter()
    answer = Answer()
    meter.begin(answer)
    meter.gaps += [0.001, 0.002, 0.0021, 100.0]
    totals, seconds = meter.fold()
    assert totals[0] == 2, "a bound belongs to its bucket"
    assert totals[1] == 3
    assert totals[-2:] == [3, 4]
    assert len(totals) == len(GAP_BOUNDS) + 1
    assert seconds == pytest.approx(100.0051)

    def add() -> None:
        for _ in range(50_000):
            meter.gaps.append(0.01)

    thread = threading.Thread(target=add)
    thread.start()
    while thread.is_alive():
        meter.fold()
    thread.join()
    assert meter.fold()[0][-1] == 50_004
    assert meter.num_tokens == 3
    meter.end(answer)
    meter.end(answer)
    assert meter.num_tokens == 3
