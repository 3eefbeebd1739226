"""Figures of Prometheus that are read from the server's objects when they are asked for."""

from collections.abc import Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from internvl_server import __version__
from internvl_server.api.services import Services
from internvl_server.concurrency.sharing import SharedBudget
from internvl_server.telemetry.prometheus import PREFIX
from internvl_server.telemetry.tokens import GAP_BOUNDS, TokenMeter

__all__ = ["LiveCollector"]


class LiveCollector(Collector):
    """Reads the state of the engine, the budgets, the caches and the decode processes.

    It may be asked on any thread.

    Args:
        services: The server's objects.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        """All figures now."""
        yield from _info(self._services)
        yield from _engine(self._services)
        yield from _tokens(self._services.pipeline.meter)
        yield from _budgets(self._services)
        yield from _workers(self._services)
        yield from _media(self._services)


def _info(services: Services) -> Iterator[Metric]:
    info = InfoMetricFamily(f"{PREFIX}build", "The server, its engine and its model.")
    info.add_metric(
        (),
        {
            "version": __version__,
            "backend": services.engine.info.backend,
            "model": services.checkpoint.served_name,
        },
    )
    yield info


def _engine(services: Services) -> Iterator[Metric]:
    health = services.engine.health()
    waiting = services.budgets.slots.num_waiting
    yield _gauge("num_requests_running", "Requests that the engine computes.", health.num_running)
    yield _gauge(
        "num_requests_waiting",
        "Requests that wait for the engine, in it or before it.",
        health.num_waiting + waiting,
    )
    if health.kv_usage is not None:
        yield _gauge(
            "kv_cache_usage_perc", "Part of the key-value cache in use, 0 to 1.", health.kv_usage
        )
    yield _gauge("engine_ready", "1 while the engine can produce tokens.", health.is_ready)
    yield _gauge("engine_alive", "0 once the engine has hung or ended.", health.is_alive)
    yield _gauge(
        "engine_silence_seconds",
        "How long the engine has had work without making progress.",
        health.silence_s,
    )


def _tokens(meter: TokenMeter) -> Iterator[Metric]:
    counter = CounterMetricFamily(f"{PREFIX}generation_tokens", "Tokens generated.")
    counter.add_metric((), meter.num_tokens)
    yield counter
    totals, seconds = meter.fold()
    bounds = [*map(str, GAP_BOUNDS), "+Inf"]
    gaps = HistogramMetricFamily(
        f"{PREFIX}inter_token_latency_seconds",
        "Time between the tokens of an answer, as the engine hands them over.",
    )
    gaps.add_metric((), list(zip(bounds, totals, strict=True)), seconds)
    yield gaps


def _budgets(services: Services) -> Iterator[Metric]:
    in_use = _gauges("budget_in_use", "What requests hold of a budget.", "budget")
    limit = _gauges("budget_limit", "The most that they may hold of it.", "budget")
    waiting = _gauges("budget_waiting", "Requests that wait for a part of it.", "budget")
    for names, budget in _named_budgets(services):
        for index, name in enumerate(names):
            in_use.add_metric((name,), budget.in_use[index])
            limit.add_metric((name,), budget.limits[index])
            waiting.add_metric((name,), budget.num_waiting)
    yield from (in_use, limit, waiting)


def _named_budgets(services: Services) -> Iterator[tuple[tuple[str, ...], SharedBudget]]:
    budgets = services.budgets
    yield ("requests",), budgets.requests
    yield ("body_bytes",), budgets.bodies
    yield ("media_bytes", "tiles"), budgets.media
    yield ("engine_slots",), budgets.slots


def _workers(services: Services) -> Iterator[Metric]:
    alive = _gauges("decode_workers", "Processes that decode and tile.", "pool")
    busy = _gauges("decode_workers_busy", "Those of them that start or have a job.", "pool")
    started = CounterMetricFamily(
        f"{PREFIX}decode_workers_started", "Processes started.", labels=["pool"]
    )
    lost = CounterMetricFamily(
        f"{PREFIX}decode_workers_lost", "Processes that died or were ended.", labels=["pool"]
    )
    for name, pool in services.media.pools().items():
        alive.add_metric((name,), pool.num_alive)
        busy.add_metric((name,), pool.num_busy)
        started.add_metric((name,), pool.num_started)
        lost.add_metric((name,), pool.num_died + pool.num_killed)
    yield from (alive, busy, started, lost)


def _media(services: Services) -> Iterator[Metric]:
    videos = CounterMetricFamily(
        f"{PREFIX}videos", "Videos that were prepared, by outcome.", labels=["outcome"]
    )
    for outcome, number in services.media.video_outcomes().items():
        videos.add_metric((outcome,), number)
    yield videos
    cache = services.media.cache
    queries = CounterMetricFamily(f"{PREFIX}media_cache_queries", "Images and videos looked up.")
    queries.add_metric((), cache.num_queries)
    hits = CounterMetricFamily(
        f"{PREFIX}media_cache_hits", "Those that were found, or were being prepared already."
    )
    hits.add_metric((), cache.num_hits)
    yield from (queries, hits)
    yield _gauge("media_cache_bytes", "Bytes of prepared tiles that are kept.", cache.num_bytes)
    yield _gauge("media_cache_entries", "Images and videos that are kept.", cache.num_entries)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def _gauges(name: str, text: str, label: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, text, labels=[label])
