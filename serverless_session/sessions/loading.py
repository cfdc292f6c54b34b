"""The typed way to a request's session, for Starlette and, as a dependency, for FastAPI."""

from __future__ import annotations

from starlette.requests import HTTPConnection  # at run time too: FastAPI reads the annotation

from serverless_session.errors import SessionError
from serverless_session.sessions.session import Session


async def load_session(connection: HTTPConnection) -> Session:
    """The session of a request or WebSocket, typed. Also a FastAPI dependency: see `serverless_session.fastapi`.

    Raises `SessionError` where no `SessionMiddleware` of this package stands around the app.
    """
    session = connection.scope.get("session")
    if not isinstance(session, Session):
        raise SessionError(
            "no-session",
            "this request has no session of serverless_session",
            looked_at='scope["session"]',
            mend="app.add_middleware(SessionMiddleware, secret_key=...)",
        )
    session.mark_accessed()
    return session
