"""The `limits` section: limits of one request and of all requests together."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from internvl_server.settings.section import PositiveInt, Section

__all__ = ["MAX_REFUSED_CONNECTIONS", "LimitSettings"]

MAX_REFUSED_CONNECTIONS = 256
"""Connections over the limit whose clients are given the time to read the answer; further ones are closed at
once after it."""
# Connections to hosts of images, pipes of workers, libraries.
_OTHER_FILES = 1024


class LimitSettings(Section):
    """Limits of one request, and of all requests together."""

    max_connections: Annotated[int, Field(ge=1, le=100_000)] = 2048
    """Maximum number of open connections. A further one takes the place of the one that is idle between
    requests for longest, or else of one whose client has not sent the headers of a request for a second: the
    oldest of the client address that has most of them. If that address has more than a quarter of
    `max_connections`, a connection from another address takes such a place at once. An IPv6 network of 64
    bits counts as one address. If there is no such place, the further one gets 429."""
    max_url_bytes: Annotated[int, Field(ge=256, le=65_536)] = 8192
    """Maximum size of the URL of a request in bytes."""
    max_head_bytes: Annotated[int, Field(ge=1024, le=1 << 20)] = 16_384
    """Maximum size in bytes of URL and headers of a request, and of the framing of a body in chunks."""
    max_headers: Annotated[int, Field(ge=8, le=10_000)] = 100
    """Maximum number of headers of a request."""
    head_timeout_s: Annotated[float, Field(gt=0, le=600)] = 10.0
    """Seconds within which a client must have sent the headers of a request, from their first byte or, on a
    new connection, from its start."""
    max_body_bytes: Annotated[int, Field(gt=0, le=1 << 30)] = 32 << 20
    """Maximum size of a request body in bytes."""
    body_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """Seconds within which a client must have sent its body. If it is refused before, the connection stays
    open while it sends, for this time at most, so that it can read the answer."""
    max_json_values: Annotated[int, Field(ge=10_000, le=10_000_000)] = 200_000
    """Maximum number of values and member names in a request body, counted by its punctuation; 64 bytes of
    text that is not ASCII count as one. Four times the context length is always allowed, because the
    punctuation of texts counts too."""
    max_in_flight: PositiveInt = 128
    """Maximum number of accepted requests, including those that wait. Further requests get 429 at once."""
    max_share_per_key: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Part of all requests, bytes, tiles and places in the engine that the requests of one API key may have
    while other keys are in use or were in the last ten seconds. What waits is served in turns by keys,
    weighted by tokens. 1 leaves the turns alone."""
    queue_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """Seconds that a request waits for memory or for its place in the engine before it gets 429."""
    max_expected_wait_s: Annotated[float, Field(gt=0, le=3600)] = 3.0
    """A request gets 429 at once, before its body is read, if it would wait longer than this for its place in
    the engine at the pace of the last requests, or longer than `queue_timeout_s`. After an overload the queue
    is empty again after about twice this time under half of the load that the engine bears. Half as many
    requests as the engine computes at the same time, and at least four, may always wait."""
    max_body_bytes_in_flight: PositiveInt = 256 << 20
    """Maximum size in bytes of the bodies of all requests until the engine takes them; they take up to three
    times as much memory while they are parsed. Further requests wait, before their bodies are read. A body in
    chunks, whose length is not known, counts in steps of a MiB as it arrives, and gets 429 if there is no
    room for the next."""
    max_fetched_bytes_in_flight: PositiveInt = 512 << 20
    """Maximum size in bytes of the fetched images of all requests until they are tiled. Further requests wait
    before they fetch. An image counts with the largest size that is allowed until its size is known. Videos
    are counted by `media.max_videos_in_flight`."""
    max_tiles_in_flight: PositiveInt = 1024
    """Maximum number of image tiles of all accepted requests, counted once per choice. A tile takes 1.2 MB of
    memory; with the CPU engine in `float32` it takes 2.4 MB, and half as many are allowed.
    `media.cache_bytes` comes on top. Further requests wait before their images are fetched and decoded."""
    max_memory: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Part of the memory limit of the server's control group, such as a container's, from which all requests
    get 429."""
    max_memory_for_media: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Part of the memory limit from which requests with images and videos get 429."""
    request_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    """Seconds within which a request must have been answered completely. Before the answer begins it gets 504
    then, and a stream an error event. A client may ask for less in the header `x-request-timeout`."""
    first_token_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    """Seconds within which the engine must give the first token of a request, from when it has its place."""
    next_token_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    """Seconds within which the engine must give another token of a running request. An engine that gives none
    to any request is noticed earlier (`engine.stall_timeout_s`)."""
    max_messages: PositiveInt = 1024
    """Maximum number of messages of one conversation."""
    max_parts: PositiveInt = 512
    """Maximum number of content parts of one message."""
    max_parts_per_request: PositiveInt = 4096
    """Maximum number of content parts and tool calls of all messages of one conversation."""
    max_tools: PositiveInt = 128
    """Maximum number of tools of one request, and of tool calls of one message."""
    max_choices: Annotated[int, Field(gt=0, le=128)] = 16
    """Maximum number of choices of one request (`n`)."""
    max_prompts: PositiveInt = 64
    """Maximum number of prompts of one request of `/v1/completions`; several prompts count `n` times."""
    default_max_tokens: Annotated[int, Field(ge=0, le=1 << 30)] = 0
    """Maximum number of generated tokens of a request that sets no limit. 0 means the rest of the context,
    or on the CPU engine `engine.cpu.default_max_tokens`."""

    @property
    def num_files(self) -> int:
        """Open files with which the limit of connections is reached before that of the system."""
        return self.max_connections + MAX_REFUSED_CONNECTIONS + _OTHER_FILES

    @model_validator(mode="after")
    def _url_fits_head(self) -> Self:
        if self.max_url_bytes > self.max_head_bytes:
            raise ValueError(
                "max_url_bytes must not exceed max_head_bytes, which counts the URL too"
            )
        return self
