"""Requests without a client: an app is called as a server calls it, and told when its client leaves."""

import asyncio
import itertools
import re
from typing import NamedTuple

from starlette.types import ASGIApp, Message, Scope

PATIENCE = 20.0
"""Seconds after which something hangs; nothing takes a tenth of it."""


def set_by(headers: str) -> str | None:
    """The session's cookie that is set in these headers."""
    found = re.search(r"(?i)set-cookie: session=([\w-]{60});", headers)
    return found[1] if found else None


class Said(NamedTuple):
    """What an app has sent, and the exception with which it ended."""

    messages: list[Message]
    error: BaseException | None

    @property
    def status(self) -> int | None:
        return next((message["status"] for message in self.messages if "status" in message), None)

    @property
    def cookie(self) -> str | None:
        return set_by(self.headers)

    @property
    def headers(self) -> str:
        headers = itertools.chain.from_iterable(message.get("headers", ()) for message in self.messages)
        return "".join(f"{name.decode()}: {value.decode()};\r\n" for name, value in headers)


def scope_of(path: str, cookie: str | None, *, method: str = "GET", spec_version: str = "2.3") -> Scope:
    headers = [(b"host", b"shop.example")]
    if cookie is not None:
        headers.append((b"cookie", f"session={cookie}".encode()))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": spec_version},
        "http_version": "1.1",
        "method": method,
        "scheme": "https",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
    }


async def call(app: ASGIApp, scope: Scope, *, leave: bool = False) -> Said:
    """One request by a client that leaves, if it does, once the body has come so far."""
    messages: list[Message] = []
    gone, asked = asyncio.Event(), False
    raises = scope["asgi"]["spec_version"] >= "2.4"  # from then on, a server tells a client's leaving to who sends

    async def receive() -> Message:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if gone.is_set() and raises:
            raise OSError("the client has left")
        messages.append(message)
        if leave and len(messages) > 2:
            gone.set()

    task = asyncio.ensure_future(app(scope, receive, send))
    done, _ = await asyncio.wait([task], timeout=PATIENCE)
    assert done, "it hangs"
    if task.cancelled():
        return Said(messages, asyncio.CancelledError())
    return Said(messages, task.exception())
