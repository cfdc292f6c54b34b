"""Around the whole page: what browsers must not let other sites do with it.

The demo listens on a visitor's own machine, where every site that is open in the browser can reach it. So a request
that changes anything must come from the page itself (Fetch Metadata's `Sec-Fetch-Site`, or else `Origin`), and on
loopback it must be addressed to loopback, or a site could let its own name point there ("DNS rebinding").
"""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})

_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS: Final = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Guard:
    """Middleware. `hosts`: by which names the page may be called; None: by any."""

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str] | None) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered = MutableHeaders(scope=message)
                answered.update(_HEADERS)
                answered.setdefault("cache-control", "no-cache")  # a newer demo on the same port is another page
            await send(message)

        headers = Headers(scope=scope)
        if self._hosts is not None and _name_of(headers.get("host", "")) not in self._hosts:
            await PlainTextResponse("This demo is called by another name.", 421)(scope, receive, guarded)
        elif scope["method"] not in ("GET", "HEAD") and not _from_the_page_itself(scope, headers):
            await PlainTextResponse("Only the page itself may do this.", 403)(scope, receive, guarded)
        else:
            await self._app(scope, receive, guarded)


def _from_the_page_itself(scope: Scope, headers: Headers) -> bool:
    """What is no browser sends neither header, and carries nobody's cookies along without his knowledge."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site == "same-origin"
    return origin is None or origin == f"{scope['scheme']}://{headers.get('host')}"


def _name_of(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name.lower() if colon and port.isdecimal() else host.lower()
