"""The page at `/` to try the server out in a browser, and its files below `/playground/`."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

import internvl_server

__all__ = ["Playground", "router", "wants_page"]

router = APIRouter()

_FOLDER = Path(internvl_server.__file__).parent / "playground"
_NOT_FOUND = 404
_NOT_MODIFIED = 304
_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
}

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types dompurify"
)
_HEADERS: Mapping[str, str] = {
    # Kept, but asked about each time: a new version of the server replaces all files at once.
    "cache-control": "no-cache",
    "content-security-policy": _POLICY,
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "vary": "accept",
}


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    media_type: str
    etag: str


class Playground:
    """The files of the page, read once.

    Args:
        folder: Has `index.html` and the files that it loads.
    """

    def __init__(self, folder: Path = _FOLDER) -> None:
        paths = [path for path in folder.rglob("*") if path.is_file()]
        self._files = {path.relative_to(folder).as_posix(): _read(path) for path in paths}

    def answer(self, request: Request, name: str = "index.html") -> Response:
        """A file, or 304 if the browser has it.

        Args:
            request: Says what the browser has.
            name: Path below the folder.

        Raises:
            HTTPException: 404, there is no such file.
        """
        file = self._files.get(name)
        if file is None:
            raise HTTPException(_NOT_FOUND)
        headers = {**_HEADERS, "etag": file.etag}
        known = [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]
        if file.etag in known:
            return Response(status_code=_NOT_MODIFIED, headers=headers)
        return Response(file.body, media_type=file.media_type, headers=headers)


def wants_page(accept: str) -> bool:
    """Whether a client prefers HTML to JSON, as browsers do and programs do not.

    Args:
        accept: The header `Accept`, perhaps empty.
    """
    return _quality(accept, "text/html") > _quality(accept, "application/json")


def _quality(accept: str, media_type: str) -> float:
    """The weight of a type that is listed, without regard to wildcards; 0 if it is not."""
    for entry in accept.split(","):
        name, *options = (part.strip().lower() for part in entry.split(";"))
        if name == media_type:
            weights = [option[2:] for option in options if option.startswith("q=")]
            return _weight(weights[0]) if weights else 1.0
    return 0.0


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _read(path: Path) -> _File:
    body = path.read_bytes()
    media_type = _TYPES.get(path.suffix, "text/plain")
    return _File(body, media_type, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


@router.get("/playground/{file:path}", include_in_schema=False)
@router.head("/playground/{file:path}", include_in_schema=False)
async def playground_file(request: Request, file: str) -> Response:
    """A script, a style sheet or another file of the page."""
    page: Playground = request.app.state.playground
    return page.answer(request, file)
