"""One request to an app, without a server: what an ASGI or WSGI server would call, and nothing else."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from benchmarks.asking import Unfit

Scope = MutableMapping[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]


class Visitor:
    """Sends one GET after the other to an ASGI app, with a cookie once it was given one."""

    def __init__(self, app: App, path: str = "/") -> None:
        self._app = app
        self._path = path
        self._headers: list[tuple[bytes, bytes]] = [
            (b"host", b"shop.example.com"),
            (b"user-agent", b"benchmarks"),
            (b"accept", b"*/*"),
        ]
        self._started: Any = None
        self.body = b""

    async def __call__(self) -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "https",
            "path": self._path,
            "raw_path": self._path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": self._headers.copy(),
            "client": ("203.0.113.7", 50_000),
            "server": ("shop.example.com", 443),
            "state": {},
        }
        self._started = None
        await self._app(scope, _receive, self._send)
        if self._started is None or self._started["status"] != 200:
            raise Unfit(f"answered {self._started and self._started['status']}, not 200: {self.body[:200]!r}")

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self._started = message
        else:
            self.body = message.get("body", b"")

    def keep_cookie_of(self, first: Visitor) -> None:
        """From here on, bring what the last answer to `first` has set."""
        self._headers.append((b"cookie", first.cookie))

    @property
    def cookie(self) -> bytes:
        return cookie_of(self._started["headers"])


async def _receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


def cookie_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    cookies = [value.partition(b";")[0] for name, value in headers if name.lower() == b"set-cookie"]
    if not cookies:
        raise Unfit("set no cookie")
    return b"; ".join(cookies)


class WsgiVisitor:
    """The same, to a WSGI app."""

    def __init__(self, app: Any, path: str = "/") -> None:
        self._app = app
        self._environ = {
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": "",
            "SERVER_NAME": "shop.example.com",
            "SERVER_PORT": "443",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": "shop.example.com",
            "HTTP_USER_AGENT": "benchmarks",
            "HTTP_ACCEPT": "*/*",
            "REMOTE_ADDR": "203.0.113.7",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "https",
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
        }
        self._status = ""
        self._headers: list[tuple[str, str]] = []
        self.body = b""

    def __call__(self) -> None:
        answer = self._app({**self._environ, "wsgi.input": io.BytesIO()}, self._start)
        self.body = b"".join(answer)
        if hasattr(answer, "close"):
            answer.close()
        if not self._status.startswith("200"):
            raise Unfit(f"answered {self._status}, not 200: {self.body[:200]!r}")

    def _start(self, status: str, headers: list[tuple[str, str]], exc_info: object = None) -> None:
        self._status, self._headers = status, headers

    def keep_cookie_of(self, first: WsgiVisitor) -> None:
        found = cookie_of((name.encode(), value.encode()) for name, value in first._headers)
        self._environ["HTTP_COOKIE"] = found.decode()
