"""ASGI middleware that checks keys before any of the body is read. It denies by default."""

import hashlib
import hmac
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from internvl_server.api.errors import dialect_of, error_response
from internvl_server.errors import AuthenticationError

__all__ = ["ANONYMOUS", "AuthMiddleware"]

ANONYMOUS = "anonymous"
"""The client of requests without a key."""

# Compared with scope["path"], never with a URL rebuilt from the Host header.
_OPEN_PATHS = frozenset({"/", "/health", "/ready"})


class AuthMiddleware:
    """Admits requests that have one of the keys, or all requests when there are no keys.

    Args:
        app: The protected application.
        api_keys: Accepted keys in clear text; only their digests are kept.

    The name of the key is in `scope["state"]["client"]`: `key-1` is the first key. Without a key it is
    `anonymous`.
    """

    def __init__(self, app: ASGIApp, api_keys: Iterable[str]) -> None:
        self._app = app
        self._names = {_digest(key): f"key-{number}" for number, key in enumerate(api_keys, 1)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope, or answer 401."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        name = self._name_of(Headers(scope=scope)) if self._names else None
        if name or not self._names or scope["path"] in _OPEN_PATHS:
            scope.setdefault("state", {})["client"] = name or ANONYMOUS
            await self._app(scope, receive, send)
            return
        refusal = error_response(
            AuthenticationError(
                "Give a valid key in the header 'Authorization: Bearer …' or 'x-api-key: …'."
            ),
            dialect_of(scope),
        )
        await refusal(scope, receive, send)

    def _name_of(self, headers: Headers) -> str | None:
        """The name of the key that a request has, None if it has no valid one."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = (bearer if scheme.lower() == "bearer" else "", headers.get("x-api-key", ""))
        names = [self._find(key.strip()) for key in given if key.strip()]
        return next((name for name in names if name), None)

    def _find(self, key: str) -> str | None:
        digest = _digest(key)
        # All keys are compared in constant time, so that timing reveals nothing.
        found = [hmac.compare_digest(digest, known) for known in self._names]
        return next(
            (name for name, is_it in zip(self._names.values(), found, strict=True) if is_it), None
        )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
