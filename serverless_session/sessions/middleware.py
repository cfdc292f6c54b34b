"""The ASGI middleware: loads the session, lets the app run, saves before the response starts. It only moves messages.

Saved before the response starts, again before its last chunk and when the app returns, each only if something changed
since. So nobody sees an answer whose session was not kept. When the app raises, only endings are carried out. A store
that fails before the start turns the answer into a 503; after it, the stream is broken off instead of finished cleanly.

What a wrong setting raises is kept: servers swallow exceptions of a constructor ("lifespan protocol appears
unsupported") and answer 500 for ever. It is answered to `lifespan.startup`, and raised at the first request where there
is no lifespan.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from serverless_session.codec.keys import SecretKey
from serverless_session.deadline import Duration, seconds, within
from serverless_session.errors import ConfigurationError, SessionError, StoreError, UnreadableValue, ValueTooLarge
from serverless_session.sessions.cookie import CookieSettings, IdMaker, SessionId, cookie_values
from serverless_session.sessions.lifecycle import Cookie, Steps, Visit
from serverless_session.sessions.session import Session
from serverless_session.shared import SharedState

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from serverless_session.records.records import Records
    from serverless_session.stores.contract import Operation, Store

logger = logging.getLogger("serverless_session.sessions")

_T = TypeVar("_T")

FOURTEEN_DAYS: Final = 14 * 24 * 60 * 60
LONGEST_LIFE: Final = 10 * 366 * 24 * 60 * 60
CALLS_OF_A_SAVE: Final = 10
"""A save makes several calls (conflicts, a new id); all of them together may take this many shared time-outs."""


class SessionMiddleware:
    """Sessions kept in a store; a drop-in for `starlette.middleware.sessions.SessionMiddleware`.

    Starlette's arguments come first, in its order, with its meaning. `max_age`: seconds or `timedelta` from the last
    change; None makes a cookie of the browser's session and a record of 14 days; 0 or less stores nothing.
    `https_only=None` (the default) makes the cookie Secure whenever the request came over https. `shared`: a
    `SharedState`; or `store` (URL or `Store`) and `secret_key` for one of its own; with none of them
    `SharedState.default()`.

    Trips to the store: none without a genuine cookie, 1 to read, 1 more to write a change, 1 for a new session, 2 in
    all to log out, 3 to change the id. A wrong setting is answered at start-up.
    """

    def __init__(
        self,
        app: ASGIApp,
        secret_key: SecretKey | None = None,
        session_cookie: str = "session",
        max_age: Duration | None = FOURTEEN_DAYS,
        path: str = "/",
        same_site: Literal["lax", "strict", "none"] = "lax",
        https_only: bool | None = None,
        domain: str | None = None,
        partitioned: bool = False,
        *,
        shared: SharedState | None = None,
        store: str | Store | None = None,
    ) -> None:
        self.app = app
        self._refusal: ConfigurationError | None = None
        self._records: Records | None = None
        try:
            self._shared = _shared_of(shared, store, secret_key)
            self._life = FOURTEEN_DAYS if max_age is None else _checked_life(max_age)
            self._max_age = None if max_age is None else int(self._life)
            self._cookie = CookieSettings(
                name=session_cookie,
                path=path,
                same_site=same_site,
                https_only=https_only,
                domain=domain,
                partitioned=partitioned,
            )
        except ConfigurationError as error:
            self._refusal = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._start_up(scope, receive, send)
        elif scope["type"] in ("http", "websocket"):
            await self._serve(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _start_up(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._ready()
        except ConfigurationError as error:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": str(error)})
        else:
            await self.app(scope, receive, send)

    def _ready(self) -> Records:
        """Everything that settings decide, once. Raises `ConfigurationError` each time while they are wrong."""
        if self._refusal is not None:
            raise self._refusal
        if self._records is None:
            records = self._shared.records("session")
            self._ids = IdMaker(self._shared.key_ring, self._shared.namespace)
            self._records = records
        return self._records

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        records = self._ready()
        if scope["type"] == "websocket" and not _same_origin(scope):
            scope["session"] = Session()  # opened by a page of another site: it neither sees nor changes the visitor's
            await self.app(scope, receive, send)
            return
        visit = Visit(records, self._ids.new, life=self._life)
        answer = _Answer(self, records, visit, scope, send)
        try:
            await answer.carry_out(visit.load(self._id_of(scope), now=self._shared.clock.time()))
        except (StoreError, UnreadableValue) as error:
            await answer.refuse(error)
            return
        scope["session"] = visit.session
        try:
            await self.app(scope, receive, answer.send)
        except BaseException:
            await answer.end_only()
            raise
        await answer.finish()

    def _id_of(self, scope: Scope) -> SessionId | None:
        """The one genuine id that the request carries; several different ones count as none."""
        values = set(cookie_values(scope["headers"], self._cookie.name.encode()))
        genuine = [found for found in map(self._ids.recognise, values) if found is not None]
        if len(genuine) > 1:
            logger.warning("session.several_ids: a request carried several genuine session cookies; none was used")
        return genuine[0] if len(genuine) == 1 else None


class _Answer:
    """What goes back to the server for one request, with the session saved in time."""

    def __init__(self, middleware: SessionMiddleware, records: Records, visit: Visit, scope: Scope, send: Send) -> None:
        self._shared, self._cookie, self._max_age = middleware._shared, middleware._cookie, middleware._max_age
        self._records = records
        self._visit = visit
        self._scope = scope
        self._send = send
        self._started = False
        self._refused = False

    async def carry_out(self, steps: Steps[_T], *, to_the_end: bool = False) -> _T:
        """Do what the lifecycle asks for, one operation after the other; `to_the_end`: even if we are cancelled."""
        try:
            operation = next(steps)
        except StopIteration as stop:
            nothing_to_do: _T = stop.value
            return nothing_to_do
        performing = self._perform(operation, steps)
        return await (_to_the_end(performing) if to_the_end else performing)

    async def _perform(self, operation: Operation, steps: Steps[_T]) -> _T:
        with within(CALLS_OF_A_SAVE * self._shared.timeout):
            try:
                while True:
                    (outcome,) = await self._records.perform(operation)
                    operation = steps.send(outcome)
            except StopIteration as stop:
                result: _T = stop.value
                return result

    async def send(self, message: Message) -> None:
        """The app's `send`: saves in front of the start and of the last chunk."""
        if self._refused:
            return
        match message["type"]:
            case "http.response.start" | "websocket.accept":
                try:
                    cookie = await self._save()
                except (StoreError, UnreadableValue) as error:
                    if isinstance(error, ValueTooLarge):
                        raise
                    await self.refuse(error)
                    return
                self._started = True
                message = {**message, "headers": self._headers(list(message.get("headers", ())), cookie)}
            case "http.response.body" if not message.get("more_body", False):
                await self._save_late()
            case "http.response.pathsend":
                await self._save_late()
        await self._send(message)

    async def finish(self) -> None:
        """The app has returned."""
        if self._started and not self._refused:
            await self._save_late()

    async def end_only(self) -> None:
        """The app has raised: what it ended stays ended."""
        if self._visit.session._cleared and not self._refused:
            try:
                await self.carry_out(self._visit.end(), to_the_end=True)
            except (StoreError, UnreadableValue) as error:
                logger.error("session.ending_failed: %s", error)

    async def refuse(self, error: StoreError | UnreadableValue) -> None:
        """503 in place of the app's answer; what else the app sends is dropped."""
        self._refused = True
        logger.error("session.store_failed: %s", error)
        if self._scope["type"] == "websocket":
            await self._send({"type": "websocket.close", "code": 1013})
            return
        body = (
            b'{"title":"Service Unavailable","status":503,"detail":"Sessions cannot be kept at the moment. Try again."}'
        )
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
            (b"retry-after", b"1"),
            (b"cache-control", b"no-store"),
        ]
        await self._send({"type": "http.response.start", "status": 503, "headers": headers})
        await self._send({"type": "http.response.body", "body": b"" if self._scope["method"] == "HEAD" else body})

    async def _save_late(self) -> None:
        if self._visit.needs_cookie():
            raise SessionError(
                "session-too-late",
                "a session was begun, or its id changed, after the response had started: no cookie can follow any more",
                mend="to request.session before the response starts, and change an existing session after it at most",
            )
        await self._save()

    async def _save(self) -> Cookie:
        visit = self._visit
        cookie = await self.carry_out(visit.save(now=self._shared.clock.time()), to_the_end=True)
        for event in visit.events:
            logger.info(event)
        visit.events.clear()
        return cookie

    def _headers(self, headers: list[tuple[bytes, bytes]], cookie: Cookie) -> list[tuple[bytes, bytes]]:
        session, https = self._visit.session, self._scope["scheme"] in ("https", "wss")
        if session.accessed:
            headers = _with_vary_cookie(headers)
        if cookie is not Cookie.KEEP:
            if cookie is Cookie.SET and self._visit.id is not None:
                value = self._cookie.set(self._visit.id.text, self._max_age, https=https)
            else:
                value = self._cookie.remove(https=https)
            return [*_uncacheable(headers), (b"set-cookie", value)]
        if session.accessed and not session.is_new:
            headers = _private(headers)
        return headers


def _shared_of(shared: SharedState | None, store: str | Store | None, secret_key: SecretKey | None) -> SharedState:
    if shared is not None and (store is not None or secret_key is not None):
        raise ConfigurationError(
            "two-states",
            "shared= already says which store and which secret key",
            looked_at="shared=, store=, secret_key=",
            mend="SessionMiddleware with shared= alone, or with store= and secret_key=",
        )
    if shared is not None:
        return shared
    if store is None and secret_key is None:
        return SharedState.default()
    return SharedState(store, secret_key=secret_key)


def _checked_life(max_age: Duration) -> float:
    if isinstance(max_age, timedelta | int | float) and abs(seconds(max_age)) <= LONGEST_LIFE:
        return seconds(max_age)
    raise ConfigurationError(
        "bad-max-age",
        "the life of a session is no span of time",
        looked_at="max_age=",
        mend="seconds or a timedelta of at most 10 years, or None for a cookie of the browser's session",
    )


async def _to_the_end(work: Coroutine[Any, Any, _T]) -> _T:
    """Await work that goes on when the caller is cancelled, and hand the cancellation on afterwards.

    A save that was cut in the middle could leave a session with two ids, or none.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled() and task.exception() is not None:
            logger.error("session.save_failed: %s", type(task.exception()).__name__)
        raise cancelled
    return task.result()


# --- headers ----------------------------------------------------------------------------------------------------------

_TARGETED: Final = (b"cdn-cache-control", b"surrogate-control")
"""Fields by which a shared cache may be told otherwise than by Cache-Control (RFC 9213)."""


def _directives(headers: Sequence[tuple[bytes, bytes]]) -> set[bytes]:
    values = [value for name, value in headers if name.lower() == b"cache-control"]
    return {part.partition(b"=")[0].strip().lower() for value in values for part in value.split(b",")}


def _without(headers: Sequence[tuple[bytes, bytes]], *names: bytes) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name.lower() not in names]


def _uncacheable(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """A response that carries our cookie is kept by no shared cache, whatever the app said."""
    if _directives(headers) & {b"private", b"no-store"}:
        return _without(headers, *_TARGETED)
    return [*_without(headers, b"cache-control", *_TARGETED), (b"cache-control", b"no-store")]


def _private(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """A response made with a visitor's session is that visitor's, unless the app says that it is for all."""
    if _directives(headers) & {b"private", b"no-store", b"public", b"s-maxage"}:
        return list(headers)
    return [*headers, (b"cache-control", b"private")]


def _with_vary_cookie(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    for place, (name, value) in enumerate(headers):
        if name.lower() == b"vary":
            if {part.strip().lower() for part in value.split(b",")} & {b"*", b"cookie"}:
                return headers
            return [*headers[:place], (name, value + b", Cookie"), *headers[place + 1 :]]
    return [*headers, (b"vary", b"Cookie")]


def _same_origin(scope: Scope) -> bool:
    """A page of another site may open a WebSocket with the visitor's cookie; only our own gets the session."""
    named = dict(scope["headers"])
    origin, host = named.get(b"origin"), named.get(b"host")
    return origin is None or origin.partition(b"://")[2].lower() == (host or b"").lower()
