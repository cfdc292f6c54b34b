"""FastAPI's way to the session: a typed dependency.

@app.get("/me")
async def me(session: CurrentSession) -> str:
    return session["user"]
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends

from serverless_session.sessions.loading import load_session
from serverless_session.sessions.session import Session

CurrentSession = Annotated[Session, Depends(load_session)]

__all__ = ["CurrentSession"]
