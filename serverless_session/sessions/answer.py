"""One request's answer on its way out, with the session saved in time. It moves messages; `lifecycle` decides.

Saved before the response starts, again before its last chunk and when the app returns, each only if something changed
since. So nobody sees an answer whose session was not kept. When the app raises, only endings are carried out. A store
that fails before the start turns the answer into a 503; after it, the stream is broken off instead of finished cleanly.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio

from serverless_session.deadline import within
from serverless_session.errors import SessionError, StoreError, UnreadableValue, ValueTooLarge
from serverless_session.sessions.headers import Headers, private, uncacheable, with_vary_cookie
from serverless_session.sessions.lifecycle import CookieChange, Steps, Visit

if TYPE_CHECKING:
    from starlette.types import Message, Scope, Send

    from serverless_session.records.records import Records
    from serverless_session.shared import SharedState
    from serverless_session.stores.contract import Operation

logger = logging.getLogger("serverless_session.sessions")

_T = TypeVar("_T")

CALLS_OF_A_SAVE: Final = 10
"""A save makes several calls (conflicts, a new id); all of them together may take this many shared time-outs."""

_EVENTS: Final = {
    "session.conflict_merged": "two requests changed a session at once; both changes are kept",
    "session.conflict_overridden": "two requests changed the same thing in a session at once; the later one won",
    "session.change_dropped": "a session ended or got a new id while a request ran; that one's changes are dropped",
}
_LEVELS: Final = {"session.conflict_overridden": logging.WARNING}


class Answer:
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
        self._take_assigned()
        if self._started and not self._refused:
            await self._save_late()
        else:
            await self.end_only()

    async def end_only(self) -> None:
        """The app has raised, or never answered: what it ended stays ended, nothing else is kept."""
        if not self._refused:
            self._take_assigned()
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
