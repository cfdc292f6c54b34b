"""The ASGI middleware: loads the session, lets the app run, saves before the response starts. It moves messages.

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
import math
from collections.abc import Callable, Coroutine
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import anyio

from serverless_session.codec.keys import SecretKey
from serverless_session.deadline import Duration, seconds, within
from serverless_session.errors import ConfigurationError, SessionError, StoreError, UnreadableValue, ValueTooLarge
from serverless_session.sessions.cookie import CookieSettings, IdMaker, SessionId, cookie_values
from serverless_session.sessions.headers import Headers, from_own_host, private, uncacheable, with_vary_cookie
from serverless_session.sessions.lifecycle import CookieChange, Steps, Visit
from serverless_session.sessions.session import Session
from serverless_session.shared import SharedState

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from serverless_session.records.records import Records
    from serverless_session.stores.contract import Operation, Store

logger = logging.getLogger("serverless_session.sessions")

_T = TypeVar("_T")

FOURTEEN_DAYS: Final = 14 * 24 * 60 * 60
_EVENTS: Final = {
    "session.conflict_merged": "two requests changed a session at once; both changes are kept",
    "session.conflict_overridden": "two requests changed the same thing in a session at once; the later one won",
    "session.change_dropped": "a session ended or got a new id while a request ran; that one's changes are dropped",
}
_LEVELS: Final = {"session.conflict_overridden": logging.WARNING}

LONGEST_LIFE: Final = 10 * 366 * 24 * 60 * 60
CALLS_OF_A_SAVE: Final = 10
"""A save makes several calls (conflicts, a new id); all of them together may take this many shared time-outs."""


class SessionMiddleware:
    """Sessions kept in a store; a drop-in for `starlette.middleware.sessions.SessionMiddleware`.

    Starlette's arguments come first, in its order, with its meaning. `max_age`: seconds or `timedelta` that a session
    lives after it began or was last prolonged (a change prolongs it, once a tenth of its life is gone); None makes a
    cookie of the browser's session and a record of 14 days; 0 or less stores nothing. `https_only=None` (the default)
    makes the cookie Secure whenever the request came over https. `shared`: a `SharedState`; or `store` (URL or `Store`)
    and `secret_key` for one of its own; with none of them `SharedState.default()`.

    Guarantees: the session is saved before the response starts. Changes of requests that ran at once are merged.
    Nothing brings a session back after it was ended. An unchanged session is not written. Trips to the store: none
    without a genuine cookie, 1 to read, 1 more to write a change, 1 for a new session, 2 in all to log out, 3 to change
    the id.

    Where the store fails, or may have failed (`WriteUncertain`), the answer is a 503 with `Retry-After` and without a
    cookie. Raised into the app: `ValueNotSerializable` and `ValueTooLarge` for contents that cannot be kept (the stored
    session stands), `SessionError` for a session begun after the response had started. A wrong setting
    (`ConfigurationError`) is answered when the app starts.
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
            self._max_age = None if max_age is None else math.ceil(self._life)
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
        except (TypeError, ValueError, AttributeError) as error:
            self._refusal = _unusable(error)

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
            raise  # as Starlette's own lifespan does: its TestClient waits for it
        else:
            await self.app(scope, receive, send)

    def _ready(self) -> Records:
        """Everything that settings decide, once. Raises `ConfigurationError` each time while they are wrong."""
        if self._refusal is not None:
            raise self._refusal
        if self._records is None:
            try:
                records = self._shared.records("session")
            except (TypeError, ValueError, AttributeError) as error:
                raise _unusable(error) from None
            self._ids = IdMaker(self._shared.key_ring, self._shared.namespace)
            self._records = records
        return self._records

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        records = self._ready()
        now = self._shared.clock.time()
        if scope["type"] == "websocket" and not from_own_host(scope["headers"]):
            logger.warning("session.foreign_page: a WebSocket opened by another host's page gets an empty session")
            scope["session"] = Session(created=now, ends=now)  # seen by nobody else, and saved by nobody
            await self.app(scope, receive, send)
            return
        visit = Visit(records, self._ids.new, life=self._life)
        answer = _Answer(self._shared, records, visit, partial(self._set_cookie, scope, visit), scope, send)
        try:
            await answer.carry_out(visit.load(self._id_of(scope), now=now))
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

    def _set_cookie(self, scope: Scope, visit: Visit, change: CookieChange) -> bytes:
        https = scope.get("scheme") in ("https", "wss")
        if change is CookieChange.SET and visit.id is not None:
            return self._cookie.set(visit.id.text, self._max_age, https=https)
        return self._cookie.remove(https=https)

    def _id_of(self, scope: Scope) -> SessionId | None:
        """The one genuine id that the request carries; several different ones count as none."""
        values = set(cookie_values(scope["headers"], self._cookie.name.encode()))
        genuine = [found for found in map(self._ids.recognise, values) if found is not None]
        if len(genuine) > 1:
            logger.warning("session.several_ids: a request carried several genuine session cookies; none was used")
        return genuine[0] if len(genuine) == 1 else None


class _Answer:
    """What goes back to the server for one request, with the session saved in time."""

    def __init__(
        self,
        shared: SharedState,
        records: Records,
        visit: Visit,
        set_cookie: Callable[[CookieChange], bytes],
        scope: Scope,
        send: Send,
    ) -> None:
        self._shared = shared
        self._records = records
        self._visit = visit
        self._set_cookie = set_cookie
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

    def _take_assigned(self) -> None:
        """An app that puts a plain dict in the place of its session means that for the session's contents."""
        assigned, session = self._scope.get("session"), self._visit.session
        if type(assigned) is dict:
            self._scope["session"] = session
            if not assigned:
                session.clear()
            for key in session.keys() - assigned.keys():
                del session[key]
            session.update(assigned)

    async def send(self, message: Message) -> None:
        """The app's `send`: saves in front of the start and of the last chunk."""
        if self._refused:
            return
        self._take_assigned()
        match message["type"]:
            case "http.response.start" | "websocket.accept" | "websocket.http.response.start" if not self._started:
                change = await self._save_in_front()
                if change is None:
                    return
                message = {**message, "headers": self._headers(list(message.get("headers", ())), change)}
            case "websocket.close" if not self._started:  # a handshake that is refused: no cookie leaves with it
                await (self.end_only() if self._visit.needs_cookie() else self._save_late())
            case "http.response.body" if not message.get("more_body", False):
                await self._save_late()
            case "http.response.pathsend":
                await self._save_late()
        await self._send(message)

    async def finish(self) -> None:
        """The app has returned."""
        if self._started and not self._refused:
            await self._save_late()
        else:
            await self.end_only()

    async def end_only(self) -> None:
        """The app has raised, or never answered: what it ended stays ended, nothing else is kept."""
        if not self._refused:
            try:
                await self._save(self._visit.end())
            except (StoreError, UnreadableValue) as error:
                logger.error("session.ending_failed: %s", error)

    async def _save_in_front(self) -> CookieChange | None:
        """Save before anything has left. None: it could not be, and a 503 has left in place of the answer."""
        try:
            change = await self._save(self._visit.save(now=self._shared.clock.time()))
        except ValueTooLarge:
            raise  # the store is well: this session is at fault, and so is the code that filled it
        except (StoreError, UnreadableValue) as error:
            await self.refuse(error)
            return None
        self._started = True
        return change

    async def _save_late(self) -> None:
        if self._visit.needs_cookie():
            raise SessionError(
                "session-too-late",
                "a session was begun, or its id changed, after the response had started: no cookie can follow any more",
                mend="to request.session before the response starts; later only change a session that there was",
            )
        await self._save(self._visit.save(now=self._shared.clock.time(), late=True))

    async def _save(self, steps: Steps[CookieChange]) -> CookieChange:
        try:
            return await self.carry_out(steps, to_the_end=True)
        finally:
            for event in self._visit.events:
                logger.log(_LEVELS.get(event, logging.INFO), "%s: %s", event, _EVENTS[event])
            self._visit.events.clear()

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

    def _headers(self, headers: Headers, change: CookieChange) -> Headers:
        session = self._visit.session
        if session.accessed:
            headers = with_vary_cookie(headers)
        if change is not CookieChange.KEEP:
            return [*uncacheable(headers), (b"set-cookie", self._set_cookie(change))]
        if session.accessed and not session.is_new:
            headers = private(headers)
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
        if not isinstance(shared, SharedState):
            raise ConfigurationError(
                "bad-shared",
                f"what is shared cannot be of type {type(shared).__name__}",
                looked_at="shared=",
                mend='shared=SharedState(...), or store="redis://..." in its place',
            )
        return shared
    if store is None and secret_key is None:
        return SharedState.default()
    return SharedState(store, secret_key=secret_key)


def _unusable(error: Exception) -> ConfigurationError:
    return ConfigurationError(
        "bad-setting",
        f"a setting is of a kind that cannot work ({type(error).__name__} at start-up)",
        looked_at="the arguments of SessionMiddleware and SharedState",
        mend="each as its docstring says; a type checker names the one",
    )


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
            if cancelled is None:
                await asyncio.wait([task])
            else:
                with anyio.CancelScope(shield=True):  # anyio cancels again at every turn of the loop
                    await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled() and task.exception() is not None:
            logger.error("session.save_failed: %s", type(task.exception()).__name__)
        raise cancelled
    return task.result()
