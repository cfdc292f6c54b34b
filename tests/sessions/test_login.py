"""`login`, `logout` and what a session knows of who is logged in, through real requests."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from serverless_session import Session, SharedState, load_session
from serverless_session.stores import MemoryStore
from serverless_session.testing import ManualClock
from tests.sessions.apps import SECRET, Action, app_over, browser, counted, doing, tabs


async def who(request: Request) -> Response:
    session = await load_session(request)
    return JSONResponse({"user": session.user_id, "data": dict(session), "is_new": session.is_new})


WHO = Route("/who", who)
PUT = doing("/put", lambda session: session.__setitem__("cart", ["apple"]))
ANN = doing("/ann", lambda session: session.login("ann"))


def app_with(*actions: Action, **options: Any) -> Starlette:
    """An app whose routes /0, /1, ... do these things."""
    shared, _ = counted()
    routes = [doing(f"/{place}", action) for place, action in enumerate(actions)]
    return app_over(shared, WHO, PUT, ANN, *routes, **options)


def seen_by(client: TestClient) -> tuple[str | None, dict[str, Any]]:
    found = client.get("/who").json()
    return found["user"], found["data"]


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user_id", "error"),
    [("", ValueError), (None, TypeError), (True, TypeError), (1.5, TypeError), (b"ann", TypeError), (["a"], TypeError)],
)
def test_a_user_id_that_is_none_is_refused_and_nothing_has_happened(user_id: Any, error: type[Exception]) -> None:
    def log_in(session: Session) -> None:
        with pytest.raises(error):
            session.login(user_id)
        assert not session.modified

    with browser(app_with(log_in)) as client:
        client.get("/ann")
        cookie = client.cookies["session"]
        client.get("/0")
        assert client.cookies["session"] == cookie
        assert seen_by(client) == ("ann", {})


@pytest.mark.parametrize(
    "max_age", [0, -1, timedelta(0), timedelta(seconds=-1), float("inf"), float("nan"), timedelta(days=366 * 11)]
)
def test_a_max_age_that_is_none_is_refused_and_nothing_has_happened(max_age: Any) -> None:
    def log_in(session: Session) -> None:
        with pytest.raises(ValueError, match="max_age"):
            session.login("ann", max_age=max_age)
        assert not session.modified

    with browser(app_with(log_in)) as client:
        assert "set-cookie" not in client.get("/0").headers
        assert seen_by(client) == (None, {})


# --- who is logged in -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept"), [("ann", "ann"), (7, "7"), (0, "0"), ("0", "0"), (-1, "-1"), ("é 🙂", "é 🙂")]
)
def test_a_user_id_is_a_text(given: str | int, kept: str) -> None:
    with browser(app_with(lambda session: session.login(given))) as client:
        client.get("/0")
        assert seen_by(client) == (kept, {})


def test_a_login_keeps_what_was_there_under_a_new_id_and_the_old_one_is_nobody() -> None:
    """THREATS 12."""
    with browser(app_with()) as client:
        client.get("/put")
        old = {"cookie": f"session={client.cookies['session']}"}
        client.get("/ann")
        assert seen_by(client) == ("ann", {"cart": ["apple"]})
        assert client.get("/who", headers=old).json() == {"user": None, "data": {}, "is_new": True}


def test_a_login_of_the_same_user_keeps_what_was_there_too() -> None:
    with browser(app_with()) as client:
        client.get("/ann")
        client.get("/put")
        old = client.cookies["session"]
        client.get("/ann")
        assert client.cookies["session"] != old
        assert seen_by(client) == ("ann", {"cart": ["apple"]})


def test_a_login_of_somebody_else_begins_with_an_empty_session() -> None:
    def log_in(session: Session) -> None:
        session["secret"] = "of ann"
        session.login("bob")
        assert session == {}
        session["mine"] = "of bob"

    with browser(app_with(log_in)) as client:
        client.get("/ann")
        client.get("/put")
        old = {"cookie": f"session={client.cookies['session']}"}
        client.get("/0")
        assert seen_by(client) == ("bob", {"mine": "of bob"})
        assert client.get("/who", headers=old).json()["user"] is None


def test_the_user_stays_through_a_new_id_and_changes() -> None:
    with browser(app_with(Session.regenerate)) as client:
        client.get("/ann")
        client.get("/0")
        client.get("/put")
        assert seen_by(client) == ("ann", {"cart": ["apple"]})


def test_emptied_key_by_key_a_session_that_somebody_is_logged_in_to_stays() -> None:
    with browser(app_with(lambda session: session.pop("cart"))) as client:
        client.get("/ann")
        client.get("/put")
        assert "set-cookie" not in client.get("/0").headers
        assert seen_by(client) == ("ann", {})


def both(*steps: Action) -> Action:
    def action(session: Session) -> None:
        for step in steps:
            step(session)

    return action


def log_in(session: Session) -> None:
    session.login("bob")
    session["new"] = 1


@pytest.mark.parametrize("before", [None, "/put", "/ann"])
@pytest.mark.parametrize("ending", [Session.logout, Session.clear])
def test_a_login_and_then_a_logout_is_a_logout(before: str | None, ending: Action) -> None:
    with browser(app_with(both(log_in, ending))) as client:
        if before:
            client.get(before)
        old = {"cookie": f"session={client.cookies.get('session')}"}
        client.get("/0")
        assert "session" not in client.cookies
        assert seen_by(client) == (None, {})
        assert client.get("/who", headers=old).json() == {"user": None, "data": {}, "is_new": True}


@pytest.mark.parametrize("before", [None, "/put", "/ann"])
@pytest.mark.parametrize("ending", [Session.logout, Session.clear])
def test_a_logout_and_then_a_login_is_a_login_that_carries_nothing_over(before: str | None, ending: Action) -> None:
    with browser(app_with(both(ending, log_in))) as client:
        if before:
            client.get(before)
        old = {"cookie": f"session={client.cookies.get('session')}"}
        client.get("/0")
        assert seen_by(client) == ("bob", {"new": 1})
        assert client.get("/who", headers=old).json() == {"user": None, "data": {}, "is_new": True}


def test_a_logout_then_a_login_of_the_same_user_begins_a_new_session() -> None:
    clock = ManualClock(1_000_000.0)
    shared = SharedState(MemoryStore(clock=clock), secret_key=SECRET, clock=clock)
    began: list[float] = []

    async def since(request: Request) -> Response:
        began.append((await load_session(request)).created_at.timestamp())
        return JSONResponse({})

    again = doing("/again", both(Session.logout, lambda session: session.login("ann")))
    with browser(app_over(shared, WHO, PUT, ANN, again, Route("/since", since))) as client:
        client.get("/ann")
        clock.advance(10)
        client.get("/put")
        client.get("/since")
        client.get("/again")
        client.get("/since")
        assert seen_by(client) == ("ann", {})
    assert began == [1_000_000.0, 1_000_010.0]


def test_a_request_that_raises_logs_nobody_in() -> None:
    def fail(session: Session) -> None:
        session.login("ann")
        raise RuntimeError

    with browser(app_with(fail)) as client:
        client.get("/put")
        cookie = client.cookies["session"]
        with pytest.raises(RuntimeError):
            client.get("/0")
        assert client.cookies["session"] == cookie
        assert seen_by(client) == (None, {"cart": ["apple"]})


def test_a_request_that_logs_in_says_so_at_once() -> None:
    def log_in(session: Session) -> None:
        assert session.user_id is None
        session.login("ann")
        assert session.user_id == "ann"
        assert session.authenticated_within(0)
        session.logout()
        assert session.user_id is None
        assert not session.authenticated_within(timedelta(days=1))

    clock = ManualClock(1_000_000.0)
    shared = SharedState(MemoryStore(clock=clock), secret_key=SECRET, clock=clock)
    with browser(app_over(shared, doing("/in", log_in))) as client:
        assert client.get("/in").status_code == 200


# --- when it was ------------------------------------------------------------------------------------------------------


def test_how_long_ago_somebody_logged_in() -> None:
    clock = ManualClock(1_000_000.0)
    shared = SharedState(MemoryStore(clock=clock), secret_key=SECRET, clock=clock)

    async def fresh(request: Request) -> Response:
        session = await load_session(request)
        spans = (0, 60, timedelta(minutes=1), timedelta(hours=1))
        return JSONResponse([session.authenticated_within(span) for span in spans])

    new_id = doing("/new-id", Session.regenerate)
    with browser(app_over(shared, PUT, ANN, new_id, Route("/fresh", fresh))) as client:

        def seen() -> list[bool]:
            answer: list[bool] = client.get("/fresh").json()
            return answer

        assert seen() == [False] * 4
        client.get("/put")
        assert seen() == [False] * 4, "a session alone is no login"
        client.get("/ann")
        assert seen() == [True] * 4
        clock.advance(60)
        assert seen() == [False, True, True, True]
        clock.advance(1)
        for path in ("/put", "/new-id"):
            client.get(path)
            assert seen() == [False, False, False, True], "neither a change nor a new id is a login"
        client.get("/ann")
        assert seen() == [True] * 4
        clock.advance(timedelta(hours=1, seconds=1))
        assert seen() == [False] * 4


def test_remember_me_is_for_this_session_alone() -> None:
    clock = ManualClock(1_000_000.0)
    shared = SharedState(MemoryStore(clock=clock), secret_key=SECRET, clock=clock)
    remember = doing("/remember", lambda session: session.login("ann", max_age=timedelta(days=30)))
    with browser(app_over(shared, WHO, PUT, ANN, remember, max_age=3600)) as client:
        assert "Max-Age=3600;" in client.get("/ann").headers["set-cookie"]
        assert "Max-Age=2592000;" in client.get("/remember").headers["set-cookie"]
        cookie = {"cookie": f"session={client.cookies['session']}"}
        clock.advance(timedelta(days=29))
        assert client.get("/who", headers=cookie).json()["user"] == "ann"
        assert "Max-Age=2592000;" in client.get("/put", headers=cookie).headers["set-cookie"], "a change prolongs it so"
        clock.advance(timedelta(days=31))
        assert client.get("/who", headers=cookie).json()["user"] is None


# --- two logins at the same time --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "earlier", "later", "stay"),
    [
        (None, "ann", "bob", {"ann", "bob"}),
        (None, "ann", "ann", {"ann"}),
        ("ann", "ann", "ann", {"ann"}),
        ("eve", "ann", "bob", {"bob", None}),
        ("ann", "ann", "bob", {"bob", None}),
        (
            "ann",
            "bob",
            "ann",
            {"bob", None},
        ),  # the login of another user has ended her session, and all that comes of it
    ],
)
async def test_of_two_logins_at_once_both_stay_unless_somebody_else_was_logged_in(
    before: str | None, earlier: str, later: str, stay: set[str | None]
) -> None:
    both_loaded, saved = asyncio.Barrier(2), asyncio.Event()

    async def log_in(request: Request) -> Response:
        session = await load_session(request)
        await both_loaded.wait()
        session.login(request.path_params["user"])
        if request.path_params["place"] == "later":
            await saved.wait()
        return JSONResponse({})

    def begin(session: Session) -> None:
        session["cart"] = ["apple"]
        if before is not None:
            session.login(before)

    app = app_with()
    app.routes.extend([Route("/{place}/in/{user}", log_in, methods=["POST"]), doing("/begin", begin)])
    async with tabs(app) as one, tabs(app) as two:
        await one.post("/begin")
        two.cookies.update(one.cookies)
        running = asyncio.create_task(two.post(f"/later/in/{later}"))
        await one.post(f"/earlier/in/{earlier}")
        saved.set()
        await running
        seen = [(await tab.get("/who")).json() for tab in (one, two)]
        assert {found["user"] for found in seen} == stay
        carried = before in (None, earlier) and before in (None, later)
        assert all(found["data"] == ({"cart": ["apple"]} if carried else {}) for found in seen)
        for tab in (one, two):
            await tab.post("/clear")
        assert {(await tab.get("/who")).json()["user"] for tab in (one, two)} == {None}
