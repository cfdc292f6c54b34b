"""The session as FastAPI's users get it."""

from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient

from serverless_session import Session, SessionMiddleware
from serverless_session.fastapi import CurrentSession
from tests.sessions.apps import counted


def test_the_session_is_a_dependency() -> None:
    app = FastAPI()
    shared, _ = counted()
    app.add_middleware(SessionMiddleware, shared=shared)

    @app.post("/login")
    async def login(session: CurrentSession, user: str) -> dict[str, Any]:
        session.regenerate()
        session["user"] = user
        return session

    @app.get("/me")
    def me(session: CurrentSession) -> dict[str, Any]:
        return {"user": session.get("user"), "is": type(session).__name__}

    @app.post("/logout")
    async def logout(session: CurrentSession) -> None:
        session.logout()

    with TestClient(app, base_url="https://testserver") as client:
        assert client.get("/me").json() == {"user": None, "is": "Session"}
        assert client.post("/login?user=ann").json() == {"user": "ann"}
        response = client.get("/me")
        assert response.json() == {"user": "ann", "is": "Session"}
        assert response.headers["vary"] == "Cookie"
        client.post("/logout")
        assert client.get("/me").json() == {"user": None, "is": "Session"}
        assert client.get("/openapi.json").status_code == 200


def test_a_session_may_stand_in_a_pydantic_annotation() -> None:
    from pydantic import BaseModel

    class Holder(BaseModel):
        session: Session

    assert Holder(session=Session({"a": 1})).session == {"a": 1}
