"""The settings of the socket and who may use it."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr

from internvl_server.settings.section import PositiveFloat, PositiveInt, Section

__all__ = ["ServerSettings"]


def _not_blank(key: SecretStr) -> SecretStr:
    if not key.get_secret_value().strip():
        raise ValueError("a key must not be empty")
    return key


class ServerSettings(Section):
    """The socket and who may use it."""

    host: str = "127.0.0.1"
    """Address to listen on. Anything but loopback needs `api_keys`, or `allow_anonymous = true`."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """TCP port; 0 picks a free one and prints it."""
    api_keys: tuple[Annotated[SecretStr, AfterValidator(_not_blank)], ...] = ()
    """Accepted bearer keys; empty means no key is asked for."""
    allow_anonymous: bool = False
    """Listen on a non-loopback address without keys, e.g. behind an authenticating proxy."""
    keep_alive_s: PositiveInt = 75
    """Seconds an idle connection stays open; keep it longer than the load balancer's own."""
    unknown_fields: Literal["refuse", "ignore"] = "refuse"
    """`refuse`: a field that is neither OpenAI's nor this server's gets 400, as OpenAI does. `ignore`: it
    is ignored and named in the header `x-ignored-fields`."""
    sse_keep_alive_s: PositiveFloat = 15.0
    """Seconds between keep-alive comments on a stream that has nothing else to send."""
    send_timeout_s: PositiveFloat = 30.0
    """Seconds a client may leave a stream unread, buffers full, before it is cut."""
    pre_drain_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds after SIGTERM in which `/ready` says 503 and requests are still served: as long as the
    balancer takes to notice, e.g. 10 for three checks two seconds apart."""
    drain_s: PositiveInt = 90
    """Seconds running requests get to finish after SIGTERM before they are aborted."""
