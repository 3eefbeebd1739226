"""Figures of requests for Prometheus, with names and units of other inference servers where they have any.

Labels have few values: routes, codes of errors, reasons. None of them is what a client sent.
"""

from collections.abc import Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from internvl_server.telemetry.record import RequestRecord, Stage

__all__ = ["PREFIX", "PrometheusObserver"]

PREFIX = "internvl_"

_FIRST_TOKEN = (
    0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.4, 0.6, 0.8, 1.0, 1.5, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0,
)  # fmt: skip
_REQUEST = (
    0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0,
    240.0, 480.0, 960.0,
)  # fmt: skip
_STAGE = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LENGTH = (1, 10, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000)

# The metrics of stages; those of the engine are kept for requests that reached it.
_STAGES = {
    Stage.FETCH: ("media_fetch_seconds", "Loading the file of an image or video from its host.", _STAGE),
    Stage.DECODE_MEDIA: ("media_decode_seconds", "Decoding an image or video.", _STAGE),
    Stage.TILE: ("media_tile_seconds", "Resizing and normalising the tiles of an image or video.", _STAGE),
    Stage.TOKENIZE: ("tokenize_seconds", "Rendering and tokenizing a prompt.", _STAGE),
    Stage.QUEUE: ("request_queue_time_seconds", "Waiting for a place in the engine.", _REQUEST),
    Stage.PREFILL: ("request_prefill_time_seconds", "From the engine to the first token.", _REQUEST),
    Stage.DECODE: ("request_decode_time_seconds", "From the first token to the last.", _REQUEST),
}  # fmt: skip


class PrometheusObserver:
    """Keeps the figures of requests in a registry.

    Args:
        registry: Where they are found. It belongs to one app.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        # One series more for each counter and histogram of the process, of no use here.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry
        self._requests = self._counter(
            "requests", "Requests that ended, by route and outcome.", "route", "outcome"
        )
        self._responses = self._counter(
            "http_responses", "Answers by route and HTTP status; 499 if the client left.", "route", "status"
        )  # fmt: skip
        self._refusals = self._counter(
            "errors", "Requests that were refused or failed, by the code of the error.", "code"
        )
        self._reasons = self._counter(
            "request_success", "Answers that came to their end, by the reason.", "finished_reason"
        )
        self._prompt = self._counter("prompt_tokens", "Tokens of prompts, images included.")
        self._image = self._counter("image_tokens", "Tokens of images and frames in prompts.")
        self._images = self._counter("images", "Images and frames in prompts.")
        self._tiles = self._counter("tiles", "Tiles of images and frames in prompts.")
        self._queried = self._counter(
            "prefix_cache_queries", "Prompt tokens that were looked up in the prefix cache."
        )
        self._hit = self._counter("prefix_cache_hits", "Prompt tokens whose prefill was skipped.")
        self._stages = {
            stage: self._histogram(name, text, buckets)
            for stage, (name, text, buckets) in _STAGES.items()
        }
        self._first_token = self._histogram(
            "time_to_first_token_seconds", "From a request's arrival to its first token.", _FIRST_TOKEN
        )  # fmt: skip
        self._whole = self._histogram(
            "e2e_request_latency_seconds",
            "From the arrival of a request that reached the engine to its end.",
            _REQUEST,
        )
        self._prompt_length = self._histogram(
            "request_prompt_tokens", "Prompt tokens of a request.", _LENGTH
        )
        self._answer_length = self._histogram(
            "request_generation_tokens", "Tokens of all answers to a request.", _LENGTH
        )
        self._lag = self._histogram(
            "event_loop_lag_seconds", "By how much a timer of the event loop was late.", _STAGE
        )
        ProcessCollector(registry=registry)

    def request_began(self, record: RequestRecord, path: str, headers: Mapping[str, str]) -> None:
        """Nothing to do."""

    def request_ended(self, record: RequestRecord) -> None:
        """Count a request."""
        self._requests.labels(record.route, record.outcome).inc()
        self._responses.labels(record.route, str(record.status)).inc()
        if record.error_code:
            self._refusals.labels(record.error_code).inc()
        for name, started, ended in record.all_stages():
            self._stages[name].observe(ended - started)
        if record.entered_at:
            self._count_answer(record)

    def loop_lagged(self, seconds: float) -> None:
        """Count a timer."""
        self._lag.observe(seconds)

    def close(self) -> None:
        """Nothing is left to send."""

    def _count_answer(self, record: RequestRecord) -> None:
        self._whole.observe(record.ended - record.started)
        if record.first_token_at:
            self._first_token.observe(record.first_token_at - record.started)
        self._prompt_length.observe(record.num_prompt_tokens)
        self._answer_length.observe(record.num_completion_tokens)
        self._prompt.inc(record.num_prompt_tokens)
        self._image.inc(record.num_image_tokens)
        self._images.inc(record.num_images)
        self._tiles.inc(record.num_tiles)
        self._queried.inc(record.num_prompt_tokens)
        self._hit.inc(record.num_cached_tokens)
        for reason in record.finish_reasons:
            self._reasons.labels(reason).inc()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(PREFIX + name, text, registry=self._registry, buckets=buckets)
