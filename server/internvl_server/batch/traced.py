"""A transport that makes each request of a batch a trace, which the server continues."""

import httpx2

from internvl_server.errors import StartupError

__all__ = ["TracedTransport"]


class TracedTransport(httpx2.AsyncBaseTransport):
    """Sends a `traceparent` with each request, and its span to the collector.

    Args:
        transport: Sends the requests.

    Raises:
        StartupError: The OpenTelemetry packages are not installed.
    """

    def __init__(self, transport: httpx2.AsyncBaseTransport) -> None:
        try:
            from internvl_server.telemetry.tracing import RequestTracer  # noqa: PLC0415  (optional)
        except ImportError as err:
            raise StartupError(
                "server.tracing needs the OpenTelemetry packages. Install internvl-server[otel]."
            ) from err
        self._transport = transport
        self._tracer = RequestTracer()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request, in a span that ends with the head of its answer."""
        with self._tracer.request(request.method, request.url.path, request.headers) as span:
            response = await self._transport.handle_async_request(request)
            span.set_attribute("http.response.status_code", response.status_code)
            return response

    async def aclose(self) -> None:
        """Close the connections, and send the spans that have not been sent."""
        await self._transport.aclose()
        self._tracer.close()
