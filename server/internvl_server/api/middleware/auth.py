"""ASGI middleware that checks keys before any of the body is read. It denies by default."""

import hashlib
import hmac
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from internvl_server.api.errors import dialect_of, error_response
from internvl_server.errors import AuthenticationError

__all__ = ["AuthMiddleware"]

# Compared with scope["path"], never with a URL rebuilt from the Host header.
_OPEN_PATHS = frozenset({"/", "/health", "/ready"})


class AuthMiddleware:
    """Admits requests that have one of the keys, or all requests when there are no keys.

    Args:
        app: The protected application.
        api_keys: Accepted keys in clear text; only their digests are kept.
    """

    def __init__(self, app: ASGIApp, api_keys: Iterable[str]) -> None:
        self._app = app
        self._digests = tuple(_digest(key) for key in api_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope, or answer 401."""
        is_open = scope["type"] != "http" or scope["path"] in _OPEN_PATHS or not self._digests
        if is_open or self._has_key(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        refusal = error_response(
            AuthenticationError(
                "Give a valid key in the header 'Authorization: Bearer …' or 'x-api-key: …'."
            ),
            dialect_of(scope),
        )
        await refusal(scope, receive, send)

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = (bearer if scheme.lower() == "bearer" else "", headers.get("x-api-key", ""))
        return any(self._is_known(key.strip()) for key in given)

    def _is_known(self, key: str) -> bool:
        digest = _digest(key)
        # All keys are compared in constant time, so that timing reveals nothing.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return bool(key) and any(matches)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
