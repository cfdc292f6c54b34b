"""The typed way to a request's session, for Starlette and, as a dependency, for FastAPI; and what stands in its place.

A session that is not loaded is no empty session. So what stands in its place is no dict, and raises on every use: an
empty one would tell an app, or `json.dumps`, that nobody is logged in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import NoReturn

from starlette.requests import HTTPConnection  # at run time too: FastAPI reads the annotation

from serverless_session.errors import SessionError, SessionNotLoaded
from serverless_session.sessions.session import Session


async def load_session(connection: HTTPConnection) -> Session:
    """The session of a request or WebSocket, typed. Also a FastAPI dependency: see `serverless_session.fastapi`.

    Loads it where the middleware is `lazy`, once for all who ask. Where that fails it raises `StoreError`, or
    `UnreadableValue`, to all who ask, and is answered with 503 unless the app catches it. Raises `SessionNotLoaded` on
    `exempt` paths, and `SessionError` where no `SessionMiddleware` of this package stands around the app.
    """
    session = connection.scope.get("session")
    if isinstance(session, NotLoaded):
        connection.scope["session"] = session = await session._load_now()
    if not isinstance(session, Session):
        raise SessionError(
            "no-session",
            "this request has no session of serverless_session",
            looked_at='scope["session"]',
            mend="app.add_middleware(SessionMiddleware, secret_key=...)",
        )
    session.mark_accessed()
    return session


class NotLoaded:
    """In the place of a session that is loaded when `load_session` asks for it; `load=None`: on this path it is not."""

    __slots__ = ("_load",)

    def __init__(self, load: Callable[[], Awaitable[Session]] | None) -> None:
        self._load = load

    async def _load_now(self) -> Session:
        if self._load is None:
            self._refuse()
        return await self._load()

    def _refuse(self, *_: object) -> NoReturn:
        if self._load is None:
            raise SessionNotLoaded(
                "session-exempt",
                "sessions are not loaded on this path",
                looked_at="exempt= of SessionMiddleware",
                mend="exempt= without this path, where a session is needed",
            )
        raise SessionNotLoaded(
            "session-not-loaded",
            "the session of this request is not loaded, because the middleware is lazy",
            looked_at='scope["session"], lazy=True of SessionMiddleware',
            mend="session = await load_session(request), before the first use; in FastAPI: session: CurrentSession",
        )

    __getattr__ = __getitem__ = __setitem__ = __delitem__ = __iter__ = __len__ = __contains__ = __bool__ = _refuse
    __eq__ = __ne__ = __or__ = __ror__ = __ior__ = __reversed__ = __reduce_ex__ = _refuse
    __hash__ = None  # type: ignore[assignment]


MutableMapping.register(NotLoaded)  # else `match` would pass by it without a word


class Nobody:
    """Keeps nothing: for a session that is seen by nobody else."""

    async def save(self) -> bool:
        return False

    async def reload(self) -> bool:
        return False

    def can_send_cookie(self) -> bool:
        return True
