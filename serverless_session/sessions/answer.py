"""One request's answer on its way out, with the session saved in time. It moves messages; `lifecycle` decides.

Saved before the response starts, again before its last chunk and when the app returns, each only if something changed
since. So nobody sees an answer whose session was not kept. When the app raises, only endings are carried out. A store
that fails before the start turns the answer into a 503; after it, the stream is broken off instead of finished cleanly.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio

from serverless_session.deadline import time_left, within
from serverless_session.errors import (
    SessionConflict,
    SessionNotLoaded,
    StoreError,
    UnreadableValue,
    ValueTooLarge,
)
from serverless_session.events import tell
from serverless_session.sessions.headers import Headers, private, uncacheable, with_vary_cookie
from serverless_session.sessions.lifecycle import CookieChange, Visit
from serverless_session.sessions.loading import NotLoaded
from serverless_session.sessions.session import Session, too_late

if TYPE_CHECKING:
    from starlette.types import Message, Scope, Send

    from serverless_session.notes import RequestNotes
    from serverless_session.records.records import Records
    from serverless_session.sessions.cookie import SessionId
    from serverless_session.sessions.queueing import SaveQueue, Turn
    from serverless_session.sessions.record import Steps
    from serverless_session.sessions.settings import Settings
    from serverless_session.shared import SharedState
    from serverless_session.stores.contract import Operation

_T = TypeVar("_T")

Failure = StoreError | UnreadableValue | SessionConflict
"""What is answered in place of the app, unless something has left already."""

CALLS_OF_A_SAVE: Final = 10
"""A save makes several calls (conflicts, a new id); all of them together may take this many shared time-outs."""


class Answer:
    """One request's session, from its load to its last save, and what goes back to the server meanwhile."""

    def __init__(
        self,
        settings: Settings,
        shared: SharedState,
        records: Records,
        queue: SaveQueue,
        visit: Visit,
        notes: RequestNotes,
        scope: Scope,
        send: Send,
    ) -> None:
        self._settings = settings
        self._shared = shared
        self._records = records
        self._queue = queue
        self._visit = visit
        self._notes = notes
        self._scope = scope
        self._send = send
        self._one_at_a_time = asyncio.Lock()
        self._under_way = 0
        self._loading: asyncio.Lock | None = None
        self._loaded = False
        self._failure: StoreError | UnreadableValue | None = None  # of the load
        self._raised: Exception | None = None  # into the app, by a save or a reload that it asked for
        self.failed_to_send: Exception | None = None  # and what its `send` raised
        self._foreign_came_in = False
        self._owed = CookieChange.KEEP  # by a save that the app asked for before the response started
        self._started = False
        self._refused = False

        notes.owed_cookies.append(self._owed_cookies)
        notes.last_wishes.append(self.end_only)

    # --- the session comes in -----------------------------------------------------------------------------------------

    def foreign_cookie_came_in(self) -> None:
        self._foreign_came_in = True

    async def load_first(self, session_id: SessionId | None) -> Session:
        """Load the session before the app is called: nobody else can ask for it yet, so there are no turns to take.

        Raises what the store raises.
        """
        await self._load(session_id, self._ask)
        return self._visit.session

    async def load(self, session_id: SessionId | None) -> Session:
        """Load the session, once for all who ask. Raises what the store raises; `answers` then tells what to do."""
        if self._loading is None:
            self._loading = asyncio.Lock()
        async with self._loading:
            if not self._loaded:
                if self._failure is not None:
                    raise self._failure
                if self._started and self._scope["type"] == "http":
                    raise SessionNotLoaded(
                        "session-too-late",
                        "a session was to be loaded after the response had started: a shared cache may keep that page",
                        mend="await load_session(request) before the response starts",
                    )
                await self._load(session_id, self._carry_out)
        return self._visit.session

    async def _load(self, session_id: SessionId | None, carry_out: Callable[[Steps[None]], Awaitable[None]]) -> None:
        visit, clock = self._visit, self._shared.clock
        try:
            await carry_out(visit.load(session_id, now=clock.time()))
        except (StoreError, UnreadableValue) as error:
            self._failure = error
            if self._settings.on_store_failure != "anonymous" or isinstance(error, UnreadableValue):
                raise
            tell("session.anonymous", {"error": error.code})
            visit.session._unavailable = error
        self._loaded = True
        visit.session._time, visit.session._keeper = clock.time, self
        self._notes.live_session |= not visit.session.is_new
        self._notes.sessions[self._settings.cookie.slot] = visit.session

    # --- the answer goes out ------------------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """The app's `send`: saves in front of the start and of the last chunk."""
        if self._refused:
            return
        try:
            await self._send_saved(message)
        except Exception as error:
            self.failed_to_send = error
            raise

    async def _send_saved(self, message: Message) -> None:
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
        self._take_assigned()
        if self._started and not self._refused:
            await self._save_late()
        else:
            await self.end_only()

    async def end_only(self) -> None:
        """The app has raised, or never answered: what it ended stays ended, nothing else is kept."""
        if not self._refused:
            try:
                self._take_assigned()
                await self._save(self._visit.end())
            except SessionNotLoaded:
                pass  # there is nothing to end, and why the app ended, a cancellation above all, counts more
            except (StoreError, UnreadableValue) as error:
                tell("session.ending_failed", {"error": error.code})

    async def answers(self, error: Failure) -> bool:
        """Answer a failure of ours that came back out of the app. False: it is none, or there is no answer to it."""
        ours = error is self._failure or error is self._raised
        return ours and not self._started and not self._refused and await self._answer_with(error)

    async def _answer_with(self, error: Failure) -> bool:
        if isinstance(error, SessionConflict):
            await self._send_problem(409, "Another request has changed the same at the same time. Try again.", [])
        elif self._settings.on_store_failure == "raise" or isinstance(error, ValueTooLarge):
            return False  # too large: the store is well, this session is at fault, and so is the code that filled it
        else:
            await self.refuse(error)
        return True

    async def refuse(self, error: StoreError | UnreadableValue) -> None:
        """503 in place of the app's answer; what else the app sends is dropped."""
        name = "store.unavailable" if isinstance(error, StoreError) else "store.unreadable"
        tell(name, {"error": error.code, "what": str(error)})
        await self._send_problem(503, "Sessions cannot be kept at the moment. Try again.", [(b"retry-after", b"1")])

    async def _send_problem(self, status: int, detail: str, more: Headers) -> None:
        self._refused = True
        if self._scope["type"] == "websocket":
            await self._send({"type": "websocket.close", "code": 1013})
            return
        body = json.dumps({"title": HTTPStatus(status).phrase, "status": status, "detail": detail}).encode()
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            *more,
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": b"" if self._scope["method"] == "HEAD" else body})

    def _headers(self, headers: Headers, change: CookieChange) -> Headers:
        session, settings = self._visit.session, self._settings
        standing = self._scope.get("session")
        headers = settings.foreign.outwards(
            headers,
            came_in=self._foreign_came_in,
            replaced=standing is not session and not isinstance(standing, NotLoaded),
            tell=lambda: tell("session.foreign_cookie"),
        )
        if session.accessed:
            headers = with_vary_cookie(headers)
        if change is not CookieChange.KEEP:
            return [*uncacheable(headers), (b"set-cookie", self._set_cookie(change))]
        if self._failure is not None:
            return uncacheable(headers)
        return private(headers) if self._notes.live_session else headers

    def _set_cookie(self, change: CookieChange) -> bytes:
        https, visit = self._scope.get("scheme") in ("https", "wss"), self._visit
        if change is CookieChange.SET and visit.id is not None:
            return self._settings.cookie.set(visit.id.text, visit.cookie_age, https=https)
        return self._settings.cookie.remove(https=https)

    def _owed_cookies(self) -> list[bytes]:
        """For a host that answers in the app's place: what was saved has another id, which the browser must know."""
        return [] if self._started or self._owed is CookieChange.KEEP else [self._set_cookie(self._owed)]

    def _take_assigned(self) -> None:
        """An app that puts a plain dict in the place of its session means that for the session's contents."""
        assigned, session = self._scope.get("session"), self._visit.session
        if type(assigned) is dict:
            if not self._loaded:
                raise SessionNotLoaded(
                    "session-not-loaded",
                    "other contents were assigned to a session that was not loaded",
                    looked_at='scope["session"], lazy= and exempt= of SessionMiddleware',
                    mend="session = await load_session(request), then session.clear() and session.update(...)",
                )
            self._scope["session"] = session
            if not assigned:
                session.clear()
            for key in session.keys() - assigned.keys():
                del session[key]
            session.update(assigned)

    # --- the session is saved -----------------------------------------------------------------------------------------

    async def save(self) -> bool:
        """`session.save()`: now. What it owes the browser goes with the start of the response."""
        if self._refused or self._failure is not None:
            return False
        try:
            if self._started:
                await self._save_late()
            else:
                change = await self._save(self._visit.save(now=self._shared.clock.time()))
                self._owed = self._owed if change is CookieChange.KEEP else change
        except (StoreError, UnreadableValue, SessionConflict) as error:
            self._raised = error
            raise
        if self._visit.over:
            self._visit.forget()
        return not self._visit.over

    def can_send_cookie(self) -> bool:
        return not self._started

    async def reload(self) -> bool:
        """`session.reload()`."""
        if self._refused or self._failure is not None:
            return False
        try:
            return await self._carry_out(self._visit.reload())
        except (StoreError, UnreadableValue, SessionConflict) as error:
            self._raised = error
            raise

    async def _save_in_front(self) -> CookieChange | None:
        """Save before anything has left. None: it could not be, and an error has left in place of the answer."""
        try:
            change = await self._save_if_needed()
        except (StoreError, UnreadableValue, SessionConflict) as error:
            if not await self._answer_with(error):
                raise
            return None
        self._started = True
        if change is not CookieChange.KEEP:
            return change
        # Where another request has ended the session since, that has told the browser what to do with its cookie.
        return CookieChange.KEEP if self._visit.over else self._owed

    async def _save_if_needed(self) -> CookieChange:
        if self._has_nothing_to_save():
            return CookieChange.KEEP
        return await self._save(self._visit.save(now=self._shared.clock.time()))

    def _has_nothing_to_save(self) -> bool:
        """Nobody is saving, and a save would find nothing to do. Without a failure: that may have to be raised."""
        return not self._under_way and self._failure is None and self._visit.is_settled()

    async def _save_late(self) -> None:
        if self._has_nothing_to_save():
            return
        if self._visit.needs_cookie():
            raise too_late()
        await self._save(self._visit.save(now=self._shared.clock.time(), late=True))

    async def _save(self, steps: Steps[CookieChange]) -> CookieChange:
        if self._failure is not None:
            if self._visit.session:  # it was empty: something has written past its methods
                raise self._failure
            return CookieChange.KEEP
        return await self._carry_out(steps, as_saver=True)

    # --- the store is asked -------------------------------------------------------------------------------------------

    async def _carry_out(self, steps: Steps[_T], *, as_saver: bool = False) -> _T:
        """Do what the lifecycle asks for, one operation after the other; a saver goes on to the end if cancelled.

        Tasks of one request may save and reload at the same time; the rules know of one who does, so they take turns.
        """
        waits, self._under_way = self._under_way > 0, self._under_way + 1
        try:
            work = self._carry_out_alone(steps, as_saver=as_saver)
            return await (_to_the_end(work) if as_saver and waits else work)
        finally:
            self._under_way -= 1

    async def _carry_out_alone(self, steps: Steps[_T], *, as_saver: bool) -> _T:
        async with self._one_at_a_time:
            try:
                return await self._ask(steps, as_saver=as_saver)
            finally:
                steps.close()  # what was cut off by a failure is asked for again, before anybody looks
                self._tell_what_happened()

    def _tell_what_happened(self) -> None:
        for event, fields in self._visit.events:
            tell(event, fields)
        self._visit.events.clear()

    async def _ask(self, steps: Steps[_T], *, as_saver: bool = False) -> _T:
        """Ask the store for what the lifecycle wants of it until it has its result; it may want nothing."""
        try:
            operation = next(steps)
        except StopIteration as stop:
            result: _T = stop.value
            return result
        if as_saver:
            return await _to_the_end(self._perform_in_turn(operation, steps))
        return await self._perform(operation, steps)

    async def _perform_in_turn(self, operation: Operation, steps: Steps[_T]) -> _T:
        key, shared, turn = self._visit.standing_key, self._shared, None
        if key is not None:
            turn = await self._queue.turn(key, shared.clock, patience=time_left(shared.timeout))
        try:
            with within(CALLS_OF_A_SAVE * shared.timeout):
                return await self._perform(operation, steps, turn)
        finally:
            if turn is not None:
                turn.leave()

    async def _perform(self, operation: Operation, steps: Steps[_T], turn: Turn | None = None) -> _T:
        try:
            while True:
                outcome = turn.foresee(operation) if turn is not None else None
                if outcome is None:
                    (outcome,) = await self._records.perform(operation)
                    if turn is not None:
                        turn.learn(operation, outcome)
                operation = steps.send(outcome)
        except StopIteration as stop:
            result: _T = stop.value
            return result


async def _to_the_end(work: Coroutine[Any, Any, _T]) -> _T:
    """Await work that goes on when the caller is cancelled, and hand the cancellation on afterwards.

    A save that was cut in the middle could leave a session with two ids, or none.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            if cancelled is None:
                await _end_of(task)
            else:
                with anyio.CancelScope(shield=True):  # anyio cancels again at every turn of the loop
                    await _end_of(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled() and (failure := task.exception()) is not None:
            tell("session.save_failed", {"error": getattr(failure, "code", type(failure).__name__)})
        raise cancelled
    return task.result()


def _end_of(task: asyncio.Future[Any]) -> asyncio.Future[None]:
    """Done when the task is; cancelling it leaves the task alone. A save takes 9 us for it, 16 with `asyncio.wait`."""
    over: asyncio.Future[None] = task.get_loop().create_future()

    def end(_: object) -> None:
        if not over.done():
            over.set_result(None)

    task.add_done_callback(end)
    return over
