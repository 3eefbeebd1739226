"""The settings of images and videos."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from internvl_server.settings.section import PositiveFloat, PositiveInt, Section

__all__ = ["MediaSettings"]


class MediaSettings(Section):
    """What images and videos are accepted, and how they are fetched and prepared."""

    allow_remote: bool = True
    """Fetch http(s) URLs; when false only `data:` URLs are served."""
    allowed_private_networks: tuple[str, ...] = ()
    """CIDR ranges that may be fetched from although they are not public, e.g. a private object store."""
    allowed_hosts: tuple[str, ...] = ()
    """When not empty, the only host names media are fetched from; `.example.com` admits subdomains."""
    allowed_ports: tuple[PositiveInt, ...] = (80, 443)
    """Ports media are fetched from."""
    max_redirects: Annotated[int, Field(ge=0)] = 3
    """Redirects followed; each target is judged like the first URL."""
    resolve_timeout_s: PositiveFloat = 2.0
    """Seconds one name resolution may take."""
    connect_timeout_s: PositiveFloat = 3.0
    """Seconds one connection, TLS included, may take."""
    fetch_timeout_s: PositiveFloat = 10.0
    """Seconds one image may take to arrive, redirects and resolution included."""
    max_fetches: PositiveInt = 32
    """Images and videos fetched at the same time by this process."""
    max_fetches_per_request: PositiveInt = 4
    """Images and videos fetched at the same time for one request."""
    max_image_bytes: PositiveInt = 10 << 20
    """Largest encoded image, inline or fetched."""
    max_image_pixels: PositiveInt = 50_000_000
    """Most pixels of one image, or of one frame, read from its header before decoding."""
    max_image_side_px: PositiveInt = 16_384
    """Longest side of one image, or of one frame."""
    max_aspect_ratio: PositiveFloat = 200.0
    """Longest side divided by shortest."""
    max_images: PositiveInt = 8
    """Most images of one request, frames not counted."""
    max_tiles_per_request: PositiveInt = 64
    """Tile budget shared by all images of one request, thumbnails included; a frame takes one."""
    num_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that decode and tile images; 0 means one a core, at most 4."""
    decode_timeout_s: PositiveFloat = 10.0
    """Seconds one image may take to decode and tile before its process is ended."""
    max_videos: PositiveInt = 4
    """Most videos of one request, lists of frames included."""
    default_video_frames: PositiveInt = 8
    """Frames of a video that are looked at when the request does not say how many."""
    max_video_frames: PositiveInt = 32
    """Most frames of one video that are looked at."""
    max_video_bytes: PositiveInt = 64 << 20
    """Largest encoded video. As a `data:` URL it must also fit `limits.max_body_bytes`, in which base64
    takes a third more: with the defaults 24 MB."""
    max_video_duration_s: PositiveFloat = 3600.0
    """Longest video in seconds."""
    video_fetch_timeout_s: PositiveFloat = 30.0
    """Seconds one video may take to arrive, redirects and resolution included."""
    video_timeout_s: PositiveFloat = 30.0
    """Seconds one video may take to decode before its process is ended."""
    num_video_workers: PositiveInt = 2
    """Processes that decode videos; they start with the first video."""
    max_videos_in_flight: PositiveInt = 8
    """Videos of all requests held in memory at the same time, `max_video_bytes` each; more wait, and get
    429 after `video_fetch_timeout_s`."""

    @model_validator(mode="after")
    def _check_agreement(self) -> Self:
        if self.default_video_frames > self.max_video_frames:
            raise ValueError("default_video_frames must not be more than max_video_frames")
        return self
