"""OpenTelemetry traces: a span for each request of the API and one for each of its stages.

The attributes follow the semantic conventions of OpenTelemetry for HTTP and for generative AI; nothing that a
client wrote is in them. Exporter, sampling and resource are configured by the `OTEL_…` variables of the
environment, which the library reads.
"""

import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from internvl_server import __version__
from internvl_server.telemetry.record import RequestRecord, Stage

__all__ = ["RequestTracer", "TracingObserver"]

_PATHS = "/v1/"
_NS = 1_000_000_000
_CLOSE_S = 3.0
_OPERATIONS = {"/v1/completions": "text_completion"}


class TracingObserver:
    """Makes a trace of each request below `/v1/`, or continues the one that its `traceparent` names.

    Spans are sent in the background; a collector that does not answer costs spans, but no request.

    Args:
        model: Name of the served model.
        processor: Takes the spans; None for one that sends them by OTLP over HTTP.
    """

    def __init__(self, model: str, processor: SpanProcessor | None = None) -> None:
        self._model = model
        self._provider = _provider(processor)
        self._tracer = self._provider.get_tracer("internvl_server", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._spans: dict[int, Span] = {}

    def request_began(self, record: RequestRecord, path: str, headers: Mapping[str, str]) -> None:
        """Begin the span of a request, and write its ids to the record."""
        if not path.startswith(_PATHS):
            return
        span = self._tracer.start_span(
            record.method,
            context=self._propagator.extract(headers),
            kind=SpanKind.SERVER,
            start_time=_wall(record.started),
        )
        ids = span.get_span_context()
        record.trace_id = trace.format_trace_id(ids.trace_id)
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, trace.set_span_in_context(span))
        record.trace_response = carrier.get("traceparent", "")
        self._spans[id(record)] = span

    def request_ended(self, record: RequestRecord) -> None:
        """End the span of a request, with a span for each of its stages."""
        span = self._spans.pop(id(record), None)
        if span is None:
            return
        if span.is_recording():
            self._describe(span, record)
            context = trace.set_span_in_context(span)
            for name, started, ended in record.all_stages():
                child = self._tracer.start_span(
                    name, context=context, start_time=_wall(started), attributes=_of_stage(name, record)
                )  # fmt: skip
                child.end(_wall(ended))
        span.end(_wall(record.ended))

    def loop_lagged(self, seconds: float) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Send what has not been sent, for three seconds at most."""
        _close(self._provider)

    def _describe(self, span: Span, record: RequestRecord) -> None:
        span.update_name(f"{record.method} {record.route}")
        span.set_attributes(
            {
                "http.request.method": record.method,
                "http.route": record.route,
                "http.response.status_code": record.status,
                "internvl.request_id": record.request_id,
                "internvl.outcome": record.outcome,
            }
        )
        if record.error_code:
            span.set_attribute("error.type", record.error_code)
        if record.outcome == "failed":
            span.set_status(Status(StatusCode.ERROR))
        if record.entered_at:
            self._describe_answer(span, record)

    def _describe_answer(self, span: Span, record: RequestRecord) -> None:
        span.set_attributes(
            {
                "gen_ai.operation.name": _OPERATIONS.get(record.route, "chat"),
                "gen_ai.provider.name": "internvl-server",
                "gen_ai.request.model": self._model,
                "gen_ai.response.model": self._model,
                "gen_ai.usage.input_tokens": record.num_prompt_tokens,
                "gen_ai.usage.output_tokens": record.num_completion_tokens,
                "gen_ai.usage.cache_read.input_tokens": record.num_cached_tokens,
                "gen_ai.response.finish_reasons": record.finish_reasons,
                "internvl.num_image_tokens": record.num_image_tokens,
                "internvl.num_images": record.num_images,
                "internvl.num_tiles": record.num_tiles,
            }
        )
        if record.first_token_at:
            seconds = record.first_token_at - record.started
            span.set_attribute("internvl.time_to_first_token", seconds)


class RequestTracer:
    """Makes a trace of each request to another server, which its `traceparent` lets that server continue.

    Args:
        processor: As of `TracingObserver`.
    """

    def __init__(self, processor: SpanProcessor | None = None) -> None:
        self._provider = _provider(processor)
        self._tracer = self._provider.get_tracer("internvl_server", __version__)
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, method: str, path: str, headers: MutableMapping[str, str]) -> Iterator[Span]:
        """The span of a request, whose headers get its `traceparent`. It ends with the block."""
        with self._tracer.start_as_current_span(
            f"{method} {path}", kind=SpanKind.CLIENT, attributes={"http.request.method": method}
        ) as span:
            self._propagator.inject(headers)
            yield span

    def close(self) -> None:
        """Send what has not been sent, for three seconds at most."""
        _close(self._provider)


def _provider(processor: SpanProcessor | None) -> TracerProvider:
    resource = Resource.create({"service.version": __version__, **_default_name(Resource.create())})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(processor or _otlp())
    return provider


def _close(provider: TracerProvider) -> None:
    # The library's own limit does not hold while a collector keeps a connection open and does not answer.
    closing = threading.Thread(target=provider.shutdown, name="tracing", daemon=True)
    closing.start()
    closing.join(_CLOSE_S)


def _otlp() -> SpanProcessor:
    # Its imports take half a second.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )

    return BatchSpanProcessor(OTLPSpanExporter())


def _default_name(resource: Resource) -> dict[str, str]:
    """The service's name, unless the environment has one."""
    name = str(resource.attributes.get("service.name", ""))
    return {"service.name": "internvl-server"} if name.startswith("unknown_service") else {}


def _of_stage(stage: Stage, record: RequestRecord) -> dict[str, int]:
    if stage is Stage.PREFILL:
        return {"internvl.num_prompt_tokens": record.num_prompt_tokens}
    if stage is Stage.DECODE:
        return {"internvl.num_completion_tokens": record.num_completion_tokens}
    return {}


def _wall(monotonic: float) -> int:
    """Nanoseconds since 1970 of a time of `time.monotonic`."""
    return time.time_ns() - int((time.monotonic() - monotonic) * _NS)
