"""ASGI middleware that checks keys before any of the body is read. It denies by default."""

from collections.abc import Awaitable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from internvl_server.api.errors import dialect_of, error_response
from internvl_server.api.middleware.keys import KeyRing
from internvl_server.errors import AuthenticationError
from internvl_server.settings.keys import Key, KeyLimits

__all__ = ["ANONYMOUS", "OPEN_FOLDER", "OPEN_PATHS", "AuthMiddleware"]

ANONYMOUS = "anonymous"
"""The client of requests without a key."""

OPEN_PATHS = frozenset({"/", "/health", "/metrics", "/ready"})
"""What needs no key: compared with `scope["path"]`, never with a URL rebuilt from the Host header."""

OPEN_FOLDER = "/playground/"
"""The files of the page at `/`, which need no key either."""

_NO_LIMITS = KeyLimits()


class AuthMiddleware:
    """Admits requests that have one of the keys, or all requests when there are no keys.

    The members `client` and `client_limits` of `scope["state"]` are the name of the key, or `anonymous`, and
    its `KeyLimits`.

    Args:
        app: The protected application.
        keys: The accepted keys.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self._app = app
        self._keys = keys

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one connection scope, or answer 401."""
        if scope["type"] == "lifespan":
            return self._app(scope, receive, send)
        key = self._key_of(Headers(scope=scope)) if self._keys else None
        if self._keys and key is None and not _is_open(scope["path"]):
            refusal = error_response(
                AuthenticationError(
                    "Give a valid key in the header 'Authorization: Bearer …' or 'x-api-key: …'."
                ),
                dialect_of(scope),
            )
            return refusal(scope, receive, send)
        state = scope.setdefault("state", {})
        state["client"] = key.name if key else ANONYMOUS
        state["client_limits"] = key.limits if key else _NO_LIMITS
        return self._app(scope, receive, send)

    def _key_of(self, headers: Headers) -> Key | None:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = (bearer if scheme.lower() == "bearer" else "", headers.get("x-api-key", ""))
        keys = [self._keys.find(text.strip()) for text in given if text.strip()]
        return next((key for key in keys if key), None)


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)
