"""The ASGI middleware: settings, start-up, and one request's way in. `answer` is its way out, and saves the session.

What a wrong setting raises is kept: servers swallow exceptions of a constructor ("lifespan protocol appears
unsupported") and answer 500 for ever. It is answered to `lifespan.startup`, and raised at the first request where there
is no lifespan.
"""

from __future__ import annotations

import logging
import math
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from serverless_session.codec.keys import SecretKey
from serverless_session.deadline import Duration, seconds
from serverless_session.errors import ConfigurationError, StoreError, UnreadableValue
from serverless_session.sessions.answer import Answer
from serverless_session.sessions.cookie import CookieSettings, IdMaker, SessionId, cookie_values
from serverless_session.sessions.headers import from_own_host
from serverless_session.sessions.lifecycle import CookieChange, Visit
from serverless_session.sessions.session import Session
from serverless_session.shared import SharedState

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from serverless_session.records.records import Records
    from serverless_session.stores.contract import Store

logger = logging.getLogger("serverless_session.sessions")

FOURTEEN_DAYS: Final = 14 * 24 * 60 * 60
LONGEST_LIFE: Final = 10 * 366 * 24 * 60 * 60


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
        answer = Answer(self._shared, records, visit, partial(self._set_cookie, scope, visit), scope, send)
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
