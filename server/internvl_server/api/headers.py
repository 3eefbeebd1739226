"""Response headers: what a request's answer leaves out or changes, and what browsers may do with it."""

from collections.abc import Mapping, Sequence
from urllib.parse import quote

__all__ = ["IGNORED_HEADER", "SECURITY_HEADERS", "WARNINGS_HEADER", "notice_headers"]

IGNORED_HEADER = "x-ignored-fields"
"""The JSON paths of fields that were accepted without effect, percent-encoded, separated by commas."""
WARNINGS_HEADER = "x-warnings"
"""What was done otherwise than the request may expect: sentences, percent-encoded but for spaces and
punctuation, separated by ` | `."""
SECURITY_HEADERS: Mapping[str, str] = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}
"""Of every answer that does not set them itself: it is data, which nobody keeps, and no page."""

# Clients and proxies refuse responses with larger headers.
_MAX_ITEMS = 64
_MAX_CHARS = 4096
# Punctuation of sentences and JSON paths that a header value may have, without `|` and `%`.
_READABLE = " !\"#$&'()*+,-./:;<=>?@[]^_`{}~"


def notice_headers(ignored: Sequence[str], warnings: Sequence[str] = ()) -> dict[str, str]:
    """Build the two headers, each bounded in length and left out when it would be empty.

    Args:
        ignored: JSON paths of fields that were accepted without effect.
        warnings: Sentences about the request.
    """
    headers = {}
    if ignored:
        # One more than is shown says that there are more.
        paths = [quote(path) or '""' for path in ignored[: _MAX_ITEMS + 1]]
        headers[IGNORED_HEADER] = _joined(paths, ", ")
    if warnings:
        sentences = [quote(sentence, safe=_READABLE) for sentence in warnings]
        headers[WARNINGS_HEADER] = _joined(sentences, " | ")
    return headers


def _joined(items: Sequence[str], separator: str) -> str:
    value = separator.join(items[:_MAX_ITEMS])
    if len(items) > _MAX_ITEMS or len(value) > _MAX_CHARS:
        value = value[:_MAX_CHARS] + separator + "..."
    return value
