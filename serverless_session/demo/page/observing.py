"""What each request asked of the store and what the cache answered: written down while the request runs.

A store around the store notes its calls in the entry of the request that runs around it, known by a context variable;
tasks that a request starts carry it along. So a call is written to the request that made it, however many run at once,
and one that waits for another's call has none of its own.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serverless_session.caching.stats import Answer, watch
from serverless_session.stores.contract import Conflict, Failed, Found, Operation, Outcome, Read, Store, Write

KEPT_REQUESTS: Final = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """One call of the store: what for (`session` or `list`), and what was `asked`, each once.

    `refused`: a session was to be written, and somebody else had written it meanwhile. A cache asks for its list by
    claiming the computation: where something stands there already, it has read it.
    """

    what_for: str
    asked: tuple[str, ...]
    seconds: float
    failed: bool
    refused: bool


@dataclass(slots=True, kw_only=True)
class Seen:
    """A request, or a `crowd` of them at once, and what it took. `status`: None while it runs.

    `found`: the last session that it read, as it stands in the store, with its key.
    """

    request: str
    copy: str
    crowd: int = 1
    status: int | None = None
    seconds: float = 0.0
    trips: list[Trip] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    found: tuple[str, Found] | None = field(default=None, repr=False)


_current: ContextVar[Seen | None] = ContextVar("demo_request", default=None)


class Book:
    """The last requests, and the keys of all that was written.

    Kept in memory, for one demo: who knows the address of the page sees what everybody did, but nobody's session.
    """

    def __init__(self) -> None:
        self.written: set[str] = set()
        self._last: deque[Seen] = deque(maxlen=KEPT_REQUESTS)

    def last(self) -> list[Seen]:
        """The newest first; the request that runs around here before all others."""
        current = _current.get()
        return ([current] if current is not None else []) + list(self._last)

    @contextmanager
    def entry(self, request: str, copy: str, *, crowd: int = 1) -> Iterator[Seen]:
        """Around a request. One that belongs to a crowd is written to the crowd's entry."""
        around = _current.get()
        seen = around or Seen(request=request, copy=copy, crowd=crowd)
        token, began = _current.set(seen), time.perf_counter()
        answers: list[Answer] = []
        try:
            with watch() as answers:
                if seen is not around:
                    seen.answers = answers
                yield seen
        finally:
            _current.reset(token)
            if seen is around:
                seen.answers += answers
            else:
                seen.seconds = time.perf_counter() - began
                self._last.appendleft(seen)


def current() -> Seen:
    """The entry of the request that runs around here."""
    seen = _current.get()
    assert seen is not None
    return seen


class ObservedStore(Store):
    """Passes calls on to `store` and writes them into the book; `sessions` is what session keys begin with."""

    def __init__(self, store: Store, book: Book, *, sessions: str) -> None:
        self._store = store
        self._book = book
        self._sessions = sessions
        self.limits = store.limits

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        self._book.written.update(operation.key for operation in operations if isinstance(operation, Write))
        began = time.perf_counter()
        outcomes = await self._store.perform(*operations)
        seconds, seen = time.perf_counter() - began, _current.get()
        if seen is not None:
            what_for = "session" if operations[0].key.startswith(self._sessions) else "list"
            seen.trips.append(_trip(what_for, operations, outcomes, seconds))
            for operation, outcome in zip(operations, outcomes, strict=True):
                if isinstance(operation, Read) and operation.key.startswith(self._sessions):
                    seen.found = (operation.key, outcome) if isinstance(outcome, Found) else None
        return outcomes

    async def aclose(self) -> None:
        await self._store.aclose()


def _trip(what_for: str, operations: Sequence[Operation], outcomes: Sequence[Outcome], seconds: float) -> Trip:
    kinds = [
        "read" if what_for == "list" and isinstance(outcome, Conflict) else type(operation).__name__.lower()
        for operation, outcome in zip(operations, outcomes, strict=True)
    ]
    return Trip(
        what_for=what_for,
        asked=tuple(dict.fromkeys(kinds)),
        seconds=seconds,
        failed=any(isinstance(outcome, Failed) for outcome in outcomes),
        refused=what_for == "session" and any(isinstance(outcome, Conflict) for outcome in outcomes),
    )


class Observing:
    """Middleware around a copy of the shop: an entry in the book for each request."""

    def __init__(self, app: ASGIApp, *, book: Book, copy: str) -> None:
        self._app = app
        self._book = book
        self._copy = copy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with self._book.entry(f"{scope['method']} {scope['path']}", self._copy) as seen:

            async def noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    seen.status = message["status"]
                await send(message)

            await self._app(scope, receive, noted)
