"""What a session means for the headers of its request and response: pure functions on ASGI's lists of byte pairs.

A shared cache must never hand one visitor's page, or cookie, to another (RFC 9111, section 3; RFC 9213).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

Headers = list[tuple[bytes, bytes]]

_TARGETED: Final = (b"cdn-cache-control", b"surrogate-control")
"""Fields by which a shared cache may be told otherwise than by Cache-Control (RFC 9213)."""


def _directives(headers: Sequence[tuple[bytes, bytes]]) -> set[bytes]:
    values = [value for name, value in headers if name.lower() == b"cache-control"]
    return {part.partition(b"=")[0].strip().lower() for value in values for part in value.split(b",")}


def _without(headers: Sequence[tuple[bytes, bytes]], *names: bytes) -> Headers:
    return [(name, value) for name, value in headers if name.lower() not in names]


def uncacheable(headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    """A response that carries our cookie is kept by no shared cache, whatever the app said."""
    if _directives(headers) & {b"private", b"no-store"}:
        return _without(headers, *_TARGETED)
    return [*_without(headers, b"cache-control", *_TARGETED), (b"cache-control", b"no-store")]


def private(headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    """A response made with a visitor's session is that visitor's, unless the app says that it is for all."""
    if _directives(headers) & {b"private", b"no-store", b"public", b"s-maxage"}:
        return list(headers)
    return [*headers, (b"cache-control", b"private")]


def with_vary_cookie(headers: Headers) -> Headers:
    for place, (name, value) in enumerate(headers):
        if name.lower() == b"vary":
            if {part.strip().lower() for part in value.split(b",")} & {b"*", b"cookie"}:
                return headers
            return [*headers[:place], (name, value + b", Cookie"), *headers[place + 1 :]]
    return [*headers, (b"vary", b"Cookie")]


def from_own_page(headers: Sequence[tuple[bytes, bytes]], allowed_origins: Collection[bytes] = ()) -> bool:
    """Does the request come from no page at all, from one of the host that it is sent to, or from an allowed origin?

    A page of another host may open a WebSocket with the visitor's cookie. The scheme is not compared with ours: behind
    a proxy it is another one. `Origin: null` is a foreign page, and so is one of several origins that is.
    """
    host = dict(headers).get(b"host", b"").lower()
    origins = [value.lower() for name, value in headers if name.lower() == b"origin"]
    return all(origin in allowed_origins or (host and origin.partition(b"://")[2] == host) for origin in origins)


def path_of(scope: Mapping[str, Any]) -> str:
    """The path as it was sent, undecoded, below the mount."""
    raw: bytes | None = scope.get("raw_path")
    path: str = scope["path"] if raw is None else raw.partition(b"?")[0].decode("latin-1")
    root: str = scope.get("root_path", "").rstrip("/")
    for mount in (root, quote(root)) if root else ():
        if (path + "/").startswith(mount + "/"):
            return path[len(mount) :] or "/"
    return path
