"""The ASGI middleware: settings, start-up, and one request's way in. `answer` is its way out, and saves the session.

What a wrong setting raises is kept: servers swallow exceptions of a constructor ("lifespan protocol appears
unsupported") and answer 500 for ever. It is answered to `lifespan.startup`, and raised at the first request where there
is no lifespan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocketDisconnect

from serverless_session.codec.keys import SecretKey
from serverless_session.deadline import Duration
from serverless_session.errors import ConfigurationError, SessionConflict, StoreError, UnreadableValue
from serverless_session.events import tell
from serverless_session.invocation import invocation_of
from serverless_session.notes import notes_of
from serverless_session.sessions.answer import Answer
from serverless_session.sessions.cookie import CookieSettings, IdMaker, SessionId, cookie_values
from serverless_session.sessions.foreign import ForeignCookies
from serverless_session.sessions.headers import from_own_page, path_of
from serverless_session.sessions.lifecycle import Rules, Visit
from serverless_session.sessions.lifetime import FOURTEEN_DAYS, Lifetime
from serverless_session.sessions.loading import Nobody, NotLoaded
from serverless_session.sessions.merge import Merge, MergeRules
from serverless_session.sessions.queueing import SaveQueue
from serverless_session.sessions.session import Session
from serverless_session.sessions.settings import (
    ExemptPaths,
    OnStoreFailure,
    Settings,
    check_switches,
    checked_on_conflict,
    checked_on_store_failure,
    checked_origins,
    checked_size,
)
from serverless_session.shared import SharedState

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from serverless_session.notes import RequestNotes
    from serverless_session.records.records import Records
    from serverless_session.stores.contract import Store


class SessionMiddleware:
    """Sessions kept in a store; a drop-in for `starlette.middleware.sessions.SessionMiddleware`.

    Starlette's arguments come first, in its order, with its meaning. `shared`: a `SharedState`; or `store` (URL or
    `Store`) and `secret_key` for one of its own; with none of them `SharedState.default()`. `https_only=None` (the
    default) makes the cookie Secure whenever the request came over https, and always where browsers would drop it
    otherwise (`__Host-` and `__Secure-` names, `same_site="none"`, `partitioned`). Spans of time are seconds or
    `timedelta`:

    `max_age` (14 days): how long a session and its cookie are kept after a change; None makes a cookie of the browser's
    session and a record of 14 days; 0 or less stores nothing. `rolling`: every use counts as a change. `idle_timeout`:
    ends a session that is not used for so long. `absolute_timeout`: ends it so long after it began, or after
    `session.login()`. The earliest ends it; what prolongs is written once a tenth of the span is gone.

    `lazy`: the session is loaded by `await load_session(request)`, not before. `exempt`: paths without sessions, exact
    or a prefix that ends in `*`, as they are sent, below the mount. `allowed_origins`: other pages that may open a
    WebSocket with the visitor's session. `merge`: strategies for keys that two requests changed at once, as
    `{"visits": sum_of_changes}`; `together`: groups of keys that come from one request only. `on_conflict="error"`:
    where the later of two changes would win, it gets a 409 instead. `max_session_bytes` (65,536): of a packed session.

    `on_store_failure`: "503" with `Retry-After` (default); "anonymous": who comes with a session gets an empty one
    while it cannot be loaded, in which every change raises `StoreUnavailable`, a 503; "raise": the error is raised out
    of the middleware. A change that could not be saved, or may not have been (`WriteUncertain`), is a 503 in any case
    but "raise". No answer of these carries a cookie.

    Guarantees: the session is saved before the response starts. Changes of requests that ran at once are merged.
    Nothing brings a session back after it was ended. An unchanged session is not written. Trips to the store: none
    without a genuine cookie, 1 to read, 1 more to write a change or to prolong, 1 for a new session, 2 in all to log
    out, 3 to log in or change the id. Raised into the app, and the stored session stands: `ValueNotSerializable`,
    `SessionTooLarge` and `ValueTooLarge` for contents that cannot be kept, `SessionError` for a session begun after the
    response had started. A wrong setting (`ConfigurationError`) is answered when the app starts.
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
        rolling: bool = False,
        idle_timeout: Duration | None = None,
        absolute_timeout: Duration | None = None,
        lazy: bool = False,
        exempt: Sequence[str] = (),
        merge: Mapping[str, Merge] = MappingProxyType({}),
        together: Sequence[Sequence[str]] = (),
        on_conflict: Literal["merge", "error"] = "merge",
        max_session_bytes: int = 65_536,
        allowed_origins: Sequence[str] = (),
        on_store_failure: OnStoreFailure = "503",
    ) -> None:
        self.app = app
        self._refusal: ConfigurationError | None = None
        self._records: Records | None = None
        self._queue = SaveQueue()
        try:
            check_switches(lazy=lazy, rolling=rolling, partitioned=partitioned)
            self._shared = _shared_of(shared, store, secret_key)
            self._settings = Settings(
                cookie=CookieSettings(
                    name=session_cookie,
                    path=path,
                    same_site=same_site,
                    https_only=https_only,
                    domain=domain,
                    partitioned=partitioned,
                ),
                foreign=ForeignCookies(session_cookie),
                rules=Rules(
                    lifetime=Lifetime.of(max_age, idle_timeout, absolute_timeout, rolling=rolling),
                    merge=MergeRules.of(merge, together),
                    refuse_conflicts=checked_on_conflict(on_conflict),
                    largest_bytes=checked_size(max_session_bytes),
                ),
                lazy=lazy,
                exempt=ExemptPaths(exempt),
                allowed_origins=checked_origins(allowed_origins),
                on_store_failure=checked_on_store_failure(on_store_failure),
            )
        except ConfigurationError as error:
            self._refusal = error
        except (TypeError, ValueError, AttributeError) as error:
            self._refusal = _unusable(error)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._start_up(scope, receive, send)
        elif scope["type"] in ("http", "websocket"):
            with invocation_of(scope):
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
        records, settings, notes = self._ready(), self._settings, notes_of(scope)
        outer = notes.sessions.get(settings.cookie.slot)
        if outer is not None:  # one of our own around us has the same cookie: they are one
            scope["session"] = outer
            await self.app(scope, receive, send)
            return
        visit = Visit(records, self._ids.new, settings.rules)
        answer = Answer(settings, self._shared, records, self._queue, visit, notes, scope, send)
        session_id = self._id_of(scope, notes)
        if settings.foreign.came_in(scope["headers"]):
            answer.foreign_cookie_came_in()
            scope["headers"] = settings.foreign.inwards(scope["headers"])
        if settings.exempt and path_of(scope) in settings.exempt:
            scope["session"] = NotLoaded(None)
        elif scope["type"] == "websocket" and not from_own_page(scope["headers"], settings.allowed_origins):
            tell("session.foreign_page")
            scope["session"] = Session()  # seen by nobody else
            scope["session"]._keeper = Nobody()
        else:
            if settings.lazy:
                scope["session"] = NotLoaded(partial(answer.load, session_id))
            else:
                try:
                    scope["session"] = await answer.load_first(session_id)
                except (StoreError, UnreadableValue) as error:
                    if settings.on_store_failure == "raise":
                        raise
                    await answer.refuse(error)
                    return
        notes.sessions[settings.cookie.slot] = scope["session"]
        await self._answered(answer, scope, receive)

    async def _answered(self, answer: Answer, scope: Scope, receive: Receive) -> None:
        try:
            await self.app(scope, receive, answer.send)
        except (ClientDisconnect, WebSocketDisconnect):  # no failure of the app, which may or may not have caught it
            await answer.finish()
            raise
        except (StoreError, UnreadableValue, SessionConflict) as error:
            if not await answer.answers(error):
                await answer.end_only()
                raise
        except BaseException as error:
            await answer.end_only()
            if isinstance(error, RuntimeError) and error.__cause__ is answer.failed_to_send is not None:
                raise answer.failed_to_send from None  # Starlette has a handler for it, and could not answer any more
            raise
        else:
            await answer.finish()

    def _id_of(self, scope: Scope, notes: RequestNotes) -> SessionId | None:
        """The one genuine id that the request carries; several different ones count as none.

        One that another of ours around us has taken, whose cookie has our name and another path, is not ours.
        """
        values = set(cookie_values(scope["headers"], self._settings.cookie.name.encode()))
        genuine = [found for found in map(self._ids.recognise, values) if found and found.secret not in notes.taken]
        if len(genuine) > 1:
            tell("session.several_ids")
        notes.taken |= {found.secret for found in genuine}
        return genuine[0] if len(genuine) == 1 else None


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
