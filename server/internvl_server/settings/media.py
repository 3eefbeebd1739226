"""The `media` section: images and videos."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from internvl_server.settings.section import PositiveInt, Section

__all__ = ["MediaSettings"]

_Port = Annotated[int, Field(gt=0, le=65_535)]
_Seconds = Annotated[float, Field(gt=0, le=600)]
_FileBytes = Annotated[int, Field(gt=0, le=1 << 30)]
_Processes = Annotated[int, Field(ge=0, le=256)]


class MediaSettings(Section):
    """Which images and videos are accepted, and how they are fetched and decoded."""

    allow_remote: bool = True
    """Fetch http(s) URLs; when false, only `data:` URLs are accepted."""
    allowed_private_networks: tuple[str, ...] = ()
    """Networks in CIDR notation that may be fetched from although they are not public, e.g. a private object
    store."""
    allowed_hosts: tuple[str, ...] = ()
    """When not empty, the only host names media are fetched from; `.example.com` admits subdomains."""
    allowed_ports: tuple[_Port, ...] = (80, 443)
    """Ports media are fetched from."""
    max_redirects: Annotated[int, Field(ge=0, le=20)] = 3
    """Maximum number of redirects followed; each target is checked like the first URL."""
    resolve_timeout_s: _Seconds = 2.0
    """Time limit of one name resolution in seconds."""
    connect_timeout_s: _Seconds = 3.0
    """Time limit of one connection, TLS included, in seconds."""
    fetch_timeout_s: _Seconds = 10.0
    """Time limit of fetching one image, redirects and resolution included, in seconds."""
    max_fetches: Annotated[int, Field(gt=0, le=1024)] = 32
    """Maximum number of images and videos fetched at the same time by this process."""
    max_fetches_per_request: Annotated[int, Field(gt=0, le=1024)] = 4
    """Maximum number of images and videos fetched at the same time for one request."""
    max_image_bytes: _FileBytes = 10 << 20
    """Maximum size of one encoded image, inline or fetched, in bytes."""
    max_image_pixels: Annotated[int, Field(gt=0, le=1_000_000_000)] = 50_000_000
    """Maximum number of pixels of one image or frame; read from its header before it is decoded."""
    max_image_side_px: Annotated[int, Field(gt=0, le=65_535)] = 16_384
    """Maximum length of the longer side of one image or frame, in pixels."""
    max_aspect_ratio: Annotated[float, Field(ge=1, le=65_535)] = 200.0
    """Maximum ratio of the longer side to the shorter side."""
    max_fetched_bytes: Annotated[int, Field(gt=0, le=1 << 40)] = 80 << 20
    """Maximum total size of the images fetched for one request, in bytes."""
    max_images: Annotated[int, Field(gt=0, le=10_000)] = 256
    """Maximum number of images of one request; video frames are not counted."""
    max_tiles_per_request: Annotated[int, Field(gt=0, le=100_000)] = 256
    """Maximum number of tiles of one request. Each image takes at least one, and each video frame one."""
    shared_tiles: Annotated[int, Field(gt=0, le=100_000)] = 64
    """Number of tiles, thumbnails included, that all images and frames of one request share. If one tile each
    takes more, they get more; in a conversation, the newest image keeps up to 13."""
    num_workers: _Processes = 0
    """Number of processes that decode and tile images; 0 means one per core that
    this process may use, at most 4."""
    resize: Literal["auto", "exact", "fast"] = "auto"
    """How images are resized. `exact` equals Pillow 12, and with it the authors' preprocessing, bit for bit.
    `fast` takes half the CPU time per image and equals torch's resize of uint8 images, and with it the
    preprocessing of transformers for `-hf` checkpoints: at least 99 % of the values are within one level of
    255 of the exact ones, and none differs by more than two. It needs cykooz-resizer
    (`internvl-server[fast]`). `auto` is `fast` where that is installed and pixels are rounded to 16 bits
    anyway, as on GPUs, and `exact` otherwise."""
    cache_bytes: Annotated[int, Field(ge=0, le=1 << 40)] = 512 << 20
    """Bytes of prepared images and frames that are kept for later turns and other requests with the same
    file, inline or fetched; 0 keeps none. A tile has 1.2 MB, or 2.4 MB for the CPU engine; an image of
    1920x1080 has nine. The memory may be a quarter more, and running requests hold theirs besides
    (`limits.max_tiles_in_flight`). Addresses are fetched each time. The time that an answer takes may show
    that another client has sent the same file."""
    decode_timeout_s: _Seconds = 10.0
    """Time limit of decoding and tiling one image, in seconds; its process is then killed."""
    max_videos: Annotated[int, Field(gt=0, le=1000)] = 32
    """Maximum number of videos of one request, lists of frames included."""
    default_video_frames: PositiveInt = 8
    """Number of frames sampled from a video when the request does not set one."""
    max_video_frames: Annotated[int, Field(gt=0, le=10_000)] = 32
    """Maximum number of frames sampled from one video."""
    max_video_bytes: _FileBytes = 64 << 20
    """Maximum size of one encoded video in bytes. A `data:` URL must also fit `limits.max_body_bytes`, where
    base64 takes a third more: 24 MB with the defaults."""
    max_video_duration_s: Annotated[float, Field(gt=0, le=86_400)] = 3600.0
    """Maximum duration of a video in seconds."""
    video_fetch_timeout_s: _Seconds = 30.0
    """Time limit of fetching one video, redirects and resolution included, in seconds."""
    video_timeout_s: _Seconds = 30.0
    """Time limit of decoding one video, in seconds; its process is then killed."""
    num_video_workers: Annotated[int, Field(gt=0, le=256)] = 2
    """Number of processes that decode videos; they start with the first video."""
    max_videos_in_flight: Annotated[int, Field(gt=0, le=10_000)] = 8
    """Maximum number of videos of all requests held in memory at the same time, `max_video_bytes` each.
    Further videos wait, and get 429 after `video_fetch_timeout_s`."""

    @model_validator(mode="after")
    def _check_agreement(self) -> Self:
        if self.default_video_frames > self.max_video_frames:
            raise ValueError("default_video_frames must not be greater than max_video_frames")
        return self
