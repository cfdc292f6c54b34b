"""Fifty requests for the product list at once, while it is gone or old: who asked, who computed, who was answered.

They are requests like any other, through the whole app of each copy in turn, but without a network: a browser would
open six connections and let the others queue. They begin within `ARRIVING_SECONDS`, well before the first computation
can end. What happens is told as it happens.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from typing import Any, Final

from starlette.types import ASGIApp, Message, Scope

from serverless_session.demo.page.observing import Book

REQUESTS: Final = 50
ARRIVING_SECONDS: Final = 0.35
PATH: Final = "/products"

Happening = dict[str, Any]

_running: ContextVar[_Run | None] = ContextVar("demo_stampede", default=None)


class _Run:
    """What happened since it began, for whoever takes it out of the queue."""

    def __init__(self) -> None:
        self.happenings: asyncio.Queue[Happening] = asyncio.Queue()
        self.computations = 0
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    def tell(self, what: str, **more: Any) -> None:
        self.happenings.put_nowait({"what": what, "at": round(self.seconds, 4), **more})


@contextmanager
def computing(copy: str) -> Iterator[None]:
    """Around a computation of the list: if a stampede made it necessary, it is told."""
    run = _running.get()
    if run is None:
        yield
        return
    run.computations += 1
    number = run.computations
    run.tell("computing", number=number, copy=copy)
    try:
        yield
    finally:
        run.tell("computed", number=number)


async def stampede(copies: Sequence[tuple[str, ASGIApp]], book: Book) -> AsyncGenerator[Happening, None]:
    """Everything that happens, as it happens; the last one, `over`, sums it up."""
    run = _Run()
    token = _running.set(run)
    try:
        everybody = asyncio.ensure_future(_everybody(copies, book, run))
    finally:
        _running.reset(token)
    try:
        while True:
            happening = await run.happenings.get()
            yield happening
            if happening["what"] == "over":
                break
    finally:
        everybody.cancel()
        await asyncio.wait([everybody])


async def _everybody(copies: Sequence[tuple[str, ASGIApp]], book: Book, run: _Run) -> None:
    with book.entry(f"GET {PATH}", " and ".join(name for name, _ in copies), crowd=REQUESTS) as seen:
        statuses = await asyncio.gather(
            *(_one(number, *copies[number % len(copies)], run) for number in range(REQUESTS))
        )
    seen.status = max(statuses)
    run.tell(
        "over",
        requests=REQUESTS,
        answered=sum(status == 200 for status in statuses),
        computations=run.computations,
        seconds=round(run.seconds, 3),
        trips=len(seen.trips),
        answers=Counter(answer.value for answer in seen.answers),
    )


async def _one(number: int, name: str, app: ASGIApp, run: _Run) -> int:
    await asyncio.sleep(number * ARRIVING_SECONDS / REQUESTS)
    run.tell("asked", number=number, copy=name)
    status = await _get(app, PATH)
    run.tell("answered", number=number, status=status)
    return status


async def _get(app: ASGIApp, path: str) -> int:
    """The status that an app answers a bare GET with."""
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "client": None,
        "server": None,
    }
    status = 500

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]

    await app(scope, receive, send)
    return status


async def result(copies: Sequence[tuple[str, ASGIApp]], book: Book) -> Happening:
    """The last thing that happens, for who does not watch."""
    last: Happening = {}
    async with aclosing(stampede(copies, book)) as happenings:
        async for happening in happenings:
            last = happening
    return last
