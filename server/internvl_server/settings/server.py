"""The `server` section: the socket, and who may use it."""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, StringConstraints

from internvl_server.settings.keys import parse_key
from internvl_server.settings.section import PositiveFloat, Section

__all__ = ["ServerSettings"]


def _check_key(key: SecretStr) -> SecretStr:
    """Refuse a key that no client could send: a header holds visible ASCII characters and inner spaces."""
    value = key.get_secret_value()
    if not value.strip():
        raise ValueError("an API key must not be empty")
    if not (value.isascii() and value.isprintable()):
        raise ValueError(
            "an API key must consist of printable ASCII characters: it is sent in an HTTP header"
        )
    if value != value.strip():
        raise ValueError("an API key must not begin or end with a space")
    return key


def _check_named_key(line: SecretStr) -> SecretStr:
    parse_key(line.get_secret_value())
    return line


class ServerSettings(Section):
    """The socket, and who may use it."""

    host: str = "127.0.0.1"
    """Address to listen on. Any address but a loopback one needs keys or `allow_anonymous`."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """TCP port; 0 picks a free one, which the log names."""
    backlog: Annotated[int, Field(ge=1, le=65535)] = 2048
    """Number of new connections that the system keeps until the server takes them."""
    api_keys: tuple[Annotated[SecretStr, AfterValidator(_check_key)], ...] = ()
    """Accepted keys, in the header `Authorization: Bearer …` or `x-api-key`. Without any keys, also in
    `named_keys` and `keys_file`, no key is required."""
    named_keys: tuple[Annotated[SecretStr, AfterValidator(_check_named_key)], ...] = ()
    """Accepted keys with names, each written as a line of `keys_file`."""
    keys_file: Path | None = None
    """File with accepted keys, one a line: `NAME:KEY` or `NAME:sha256:DIGEST`, perhaps followed by
    `max_in_flight=N` or `share=X`, the limits of this key. It is read again on SIGHUP."""
    allow_anonymous: bool = False
    """Listen on a non-loopback address without keys, e.g. behind a proxy that authenticates."""
    allowed_hosts: tuple[
        Annotated[str, StringConstraints(to_lower=True, pattern=r"^([\w.-]+|\[[0-9A-Fa-f:.]+\])$")],
        ...,
    ] = ()
    """Names and addresses, without ports, that requests may have in their Host header; `/health` and `/ready`
    answer to all. Empty means all. Set it where web pages must not reach the server under names of their
    own (DNS rebinding)."""
    metrics: bool = True
    """Answer at `/metrics` with figures for Prometheus, to requests without a key."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Separate TCP port for `/metrics`, which `port` then does not have; 0 for none."""
    metrics_host: str = "127.0.0.1"
    """Address to listen on for `metrics_port`."""
    server_timing: bool = True
    """Answer with a `Server-Timing` header: what fetching, decoding, tokenizing, waiting and computing
    took."""
    tracing: bool = False
    """Send OpenTelemetry traces; the variables `OTEL_…` say where to. Needs the extra `otel`."""
    openapi: bool = True
    """Describe the API at `/openapi.json`, which needs a key, as the rest does; there are no pages for it."""
    playground: bool = True
    """Show a page to try the server out to browsers that open `/`; programs get JSON there. The page needs no
    key, its requests do."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of web pages that may call the server from a browser (CORS), e.g. `https://app.example.com`;
    `*` allows all. Empty means none."""
    keep_alive_s: Annotated[int, Field(gt=0, le=3600)] = 75
    """Seconds an idle connection stays open; should exceed the idle timeout of the load balancer."""
    unknown_fields: Literal["ignore", "refuse"] = "ignore"
    """`ignore` accepts fields that neither OpenAI nor this server defines, and names them in the header
    `x-ignored-fields`. `refuse` answers 400 to them, as OpenAI does."""
    sse_keep_alive_s: PositiveFloat = 15.0
    """Seconds between keep-alive comments on a stream that has nothing else to send."""
    send_timeout_s: PositiveFloat = 30.0
    """Seconds a client may leave a stream unread, with full buffers, before its connection is closed."""
    unread_timeout_s: PositiveFloat = 60.0
    """Seconds a client may take nothing of any answer, with full buffers, before its connection is closed; of
    a stream `send_timeout_s`, if that is shorter."""
    pre_drain_s: Annotated[float, Field(ge=0, le=3600)] = 0.0
    """Seconds after SIGTERM in which `/ready` answers 503 and requests are still served. Set it to the time
    the load balancer needs to notice, e.g. 10 for three checks at intervals of two seconds."""
    drain_s: Annotated[int, Field(gt=0, le=86_400)] = 90
    """Seconds running requests may take to finish after SIGTERM before they are aborted."""

    def exposure_problem(self) -> str:
        """Why the server must not listen on `host`, as sentences; empty if it may."""
        has_keys = self.api_keys or self.named_keys or self.keys_file
        if has_keys or self.allow_anonymous or _is_loopback(self.host):
            return ""
        return (
            f"server.host (--host) is {self.host}, which other machines can reach, but no API keys are set. "
            "Set server.keys_file (--keys-file) or server.api_keys (--api-key, or "
            "INTERNVL_SERVER__API_KEYS='[\"…\"]' in the environment), or "
            "server.allow_anonymous = true behind a proxy that authenticates."
        )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
