"""`on_store_failure`: what a visitor gets while the store fails, in each of its forms."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from serverless_session import Session, SessionMiddleware, SharedState, load_session
from serverless_session.errors import StoreUnavailable, UnknownKey, WriteUncertain
from serverless_session.fastapi import CurrentSession
from serverless_session.stores import Delete, MemoryStore, Read, Write
from serverless_session.testing import FaultyStore
from tests.sessions.apps import SECRET, browser, doing

OTHER = "x9Tq2mVb7LcZ0hRkWd4NyPfGs6JuEa13"


async def view(session: Session) -> None:
    """Look, and no more."""


async def put(session: Session) -> None:
    session["n"] = session.get("n", 0) + 1


async def put_and_save(session: Session) -> None:
    await put(session)
    await session.save()


async def end(session: Session) -> None:
    session.logout()


ACTIONS = {"/view": view, "/put": put, "/put-and-save": put_and_save, "/end": end}


async def pass_on(request: Request, call_next: Any) -> Any:
    return await call_next(request)


def starlette_app(*between: Middleware, **options: Any) -> Starlette:
    routes = [doing(path, action) for path, action in ACTIONS.items()]
    return Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, **options), *between])


async def user_of(session: CurrentSession) -> Session:
    """A dependency of a dependency."""
    return session


def fastapi_app(**options: Any) -> FastAPI:
    async def endpoint(request: Request, session: Annotated[Session, Depends(user_of)]) -> dict[str, Any]:
        await ACTIONS[request.url.path](session)
        return session

    app = FastAPI()
    app.add_middleware(SessionMiddleware, **options)
    for path in ACTIONS:
        app.get(path)(endpoint)
    return app


BUILT: dict[str, Callable[..., Any]] = {
    "Starlette": starlette_app,
    "BaseHTTPMiddleware": lambda **options: starlette_app(
        Middleware(BaseHTTPMiddleware, dispatch=pass_on), Middleware(BaseHTTPMiddleware, dispatch=pass_on), **options
    ),
    "FastAPI": fastapi_app,
}

each_kind_of_app = pytest.mark.parametrize("built", BUILT.values(), ids=BUILT)
eager_and_lazy = pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])


@contextmanager
def visitor(build: Callable[..., Any], **options: Any) -> Iterator[tuple[TestClient, FaultyStore]]:
    """A browser with a session `{"n": 1}`, and the store that it is in."""
    store = FaultyStore(MemoryStore())
    with browser(build(shared=SharedState(store, secret_key=SECRET), **options)) as client:
        assert client.get("/put").json() == {"n": 1}
        yield client, store


def assert_refused(response: Any) -> None:
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["content-type"] == "application/problem+json"
    assert "set-cookie" not in response.headers


# --- each form, each failure ------------------------------------------------------------------------------------------


@each_kind_of_app
@eager_and_lazy
@pytest.mark.parametrize("form", ["503", "anonymous"])
@pytest.mark.parametrize("path", ["/put", "/put-and-save", "/end"])
def test_a_change_that_cannot_be_saved_is_503(built: Callable[..., Any], lazy: bool, form: str, path: str) -> None:
    """THREATS 20: nobody sees an answer whose session was not kept."""
    with visitor(built, lazy=lazy, on_store_failure=form) as (client, store):
        store.fail(on=(Write, Delete))
        assert_refused(client.get(path))
        assert client.get("/view").json() == {"n": 1}, "the store can be read all the time"
        store.heal()
        assert client.get("/put").json() == {"n": 2}


@eager_and_lazy
@pytest.mark.parametrize("form", ["503", "anonymous"])
@pytest.mark.parametrize("path", ["/put", "/put-and-save", "/end"])
@pytest.mark.parametrize("done", [True, False])
def test_a_change_that_may_have_been_saved_is_503_too(lazy: bool, form: str, path: str, done: bool) -> None:
    """THREATS 20: who is told 503 looks again, and sees what stands."""
    with visitor(starlette_app, lazy=lazy, on_store_failure=form) as (client, store):
        store.lose_answers(on=(Write, Delete), done=done)
        assert_refused(client.get(path))
        store.heal()
        left = {} if path == "/end" else {"n": 2}
        assert client.get("/view").json() == (left if done else {"n": 1})


@each_kind_of_app
@eager_and_lazy
def test_a_session_that_cannot_be_loaded_is_503(built: Callable[..., Any], lazy: bool) -> None:
    with visitor(built, lazy=lazy) as (client, store):
        store.fail(on=Read)
        for path in ACTIONS:
            assert_refused(client.get(path))
        store.heal()
        assert client.get("/view").json() == {"n": 1}


@each_kind_of_app
@eager_and_lazy
@pytest.mark.parametrize("form", ["503", "anonymous"])
def test_a_record_that_cannot_be_opened_is_503(built: Callable[..., Any], lazy: bool, form: str) -> None:
    """THREATS 6: the operator's fault, and not for a moment. A visitor who is served without it is logged out."""
    store = MemoryStore()
    new = SharedState(store, secret_key=OTHER, secret_key_fallbacks=[SECRET])
    old = SharedState(store, secret_key=SECRET)
    with browser(built(shared=old)) as client:
        cookie = {"cookie": f"session={client.get('/put').cookies['session']}"}
    with browser(built(shared=new)) as client:
        assert client.get("/put", headers=cookie).json() == {"n": 2}
    with browser(built(shared=old, lazy=lazy, on_store_failure=form)) as client:
        for path in ACTIONS:
            assert_refused(client.get(path, headers=cookie))


@eager_and_lazy
def test_raise_raises_all_of_them(lazy: bool) -> None:
    with visitor(starlette_app, lazy=lazy, on_store_failure="raise") as (client, store):
        store.fail(on=Read)
        with pytest.raises(StoreUnavailable):
            client.get("/view")
        store.heal()
        store.fail(on=(Write, Delete))
        for path in ("/put", "/put-and-save", "/end"):
            with pytest.raises(StoreUnavailable):
                client.get(path)
        store.heal()
        store.lose_answers(on=(Write, Delete))
        with pytest.raises(WriteUncertain):
            client.get("/put")
        store.heal()
        assert client.get("/view").json() == {"n": 2}


@eager_and_lazy
def test_raise_raises_for_a_record_that_cannot_be_opened(lazy: bool) -> None:
    store = MemoryStore()
    with browser(starlette_app(shared=SharedState(store, secret_key=SECRET))) as client:
        cookie = {"cookie": f"session={client.get('/put').cookies['session']}"}
    both = SharedState(store, secret_key=OTHER, secret_key_fallbacks=[SECRET])
    with browser(starlette_app(shared=both)) as client:
        client.get("/put", headers=cookie)
    one = SharedState(store, secret_key=SECRET)
    app = starlette_app(shared=one, lazy=lazy, on_store_failure="raise")
    with browser(app) as client, pytest.raises(UnknownKey):
        client.get("/view", headers=cookie)


def test_an_app_may_catch_what_its_own_save_raises() -> None:
    async def careful(request: Request) -> Response:
        session = await load_session(request)
        session["n"] = 5
        try:
            await session.save()
        except StoreUnavailable:
            session["n"] = 1  # as it was
        return JSONResponse(session)

    def build(**options: Any) -> Starlette:
        app = starlette_app(**options)
        app.routes.append(Route("/careful", careful))
        return app

    with visitor(build) as (client, store):
        store.fail(on=Write)
        assert client.get("/careful").json() == {"n": 1}
        store.heal()
        assert client.get("/view").json() == {"n": 1}


# --- anonymous --------------------------------------------------------------------------------------------------------


@each_kind_of_app
@eager_and_lazy
def test_anonymous_reads_are_of_an_empty_session(built: Callable[..., Any], lazy: bool) -> None:
    with visitor(built, lazy=lazy, on_store_failure="anonymous") as (client, store):
        store.fail(on=Read)
        response = client.get("/view")
        assert (response.status_code, response.json()) == (200, {})
        assert response.headers["cache-control"] == "no-store"
        assert "set-cookie" not in response.headers


def delete(session: Session) -> None:
    del session["n"]


def or_in_place(session: Session) -> None:
    session |= {"n": 5}


WRITES: dict[str, Callable[[Session], object]] = {
    "[]=": lambda session: session.__setitem__("n", 5),
    "del": delete,
    "clear": lambda session: session.clear(),
    "logout": lambda session: session.logout(),
    "login": lambda session: session.login("ann"),
    "regenerate": lambda session: session.regenerate(),
    "update": lambda session: session.update(n=5),
    "|=": or_in_place,
    "setdefault": lambda session: session.setdefault("n", 5),
    "change": lambda session: session.change("n", lambda n: 5),
    "mark_modified": lambda session: session.mark_modified(),
    "past its methods": lambda session: dict.__setitem__(session, "n", 5),
}


@eager_and_lazy
@pytest.mark.parametrize("between", [False, True], ids=["plain", "BaseHTTPMiddleware"])
@pytest.mark.parametrize("write", [*WRITES, "assigned empty", "assigned"])
def test_anonymous_writes_of_each_kind_are_503(write: str, between: bool, lazy: bool) -> None:
    """THREATS 21: none of them looks as if it had been done."""

    async def assign(request: Request) -> Response:
        await load_session(request)
        request.scope["session"] = {} if write == "assigned empty" else {"n": 5}
        return JSONResponse({})

    route = doing("/write", WRITES[write]) if write in WRITES else Route("/write", assign)
    layers = [Middleware(BaseHTTPMiddleware, dispatch=pass_on)] * between

    def build(**options: Any) -> Starlette:
        app = starlette_app(*layers, **options)
        app.routes.append(route)
        return app

    with visitor(build, lazy=lazy, on_store_failure="anonymous") as (client, store):
        store.fail()
        assert_refused(client.get("/write"))
        store.heal()
        assert client.get("/view").json() == {"n": 1}


def test_anonymous_logout_waits_until_the_store_is_back() -> None:
    """THREATS 21: the record lives on, so the cookie stays too."""
    with visitor(starlette_app, on_store_failure="anonymous") as (client, store):
        cookie = {"cookie": f"session={client.cookies['session']}"}
        store.fail()
        assert client.get("/view").json() == {}
        assert_refused(client.get("/end"))
        assert "session" in client.cookies
        store.heal()
        assert client.get("/view").json() == {"n": 1}
        assert client.get("/end").status_code == 200
        assert client.get("/view", headers=cookie).json() == {}


def test_an_app_may_catch_that_an_anonymous_session_cannot_be_changed() -> None:
    def try_to(session: Session) -> None:
        with pytest.raises(StoreUnavailable):
            session["n"] = 5

    def build(**options: Any) -> Starlette:
        app = starlette_app(**options)
        app.routes.append(doing("/try", try_to))
        return app

    with visitor(build, on_store_failure="anonymous") as (client, store):
        store.fail(on=Read)
        response = client.get("/try")
        assert (response.status_code, response.json()) == (200, {})
        assert "set-cookie" not in response.headers


@pytest.mark.parametrize("form", ["503", "anonymous", "raise"])
@pytest.mark.parametrize("cookie", [None, "session=null", "session=" + "A" * 60])
def test_who_comes_without_a_session_is_served_as_usual_as_long_as_nothing_is_written(
    form: str, cookie: str | None
) -> None:
    with visitor(starlette_app, on_store_failure=form) as (client, store):
        client.cookies.clear()
        headers = {"cookie": cookie} if cookie else {}
        store.fail()
        response = client.get("/view", headers=headers)
        assert (response.status_code, response.json()) == (200, {})
        assert client.get("/end", headers=headers).status_code == 200, "there is nothing to end"
        if form == "raise":
            with pytest.raises(StoreUnavailable):
                client.get("/put", headers=headers)
        else:
            assert_refused(client.get("/put", headers=headers))


def test_an_anonymous_websocket_reads_an_empty_session_and_is_closed_when_it_writes() -> None:
    async def chat(websocket: WebSocket) -> None:
        session = await load_session(websocket)
        if websocket.query_params:
            session["said"] = "hello"
        await websocket.accept()
        await websocket.send_json(session)
        await websocket.close()

    def build(**options: Any) -> Starlette:
        app = starlette_app(**options)
        app.routes.append(WebSocketRoute("/chat", chat))
        return app

    store = FaultyStore(MemoryStore())
    app = build(shared=SharedState(store, secret_key=SECRET), on_store_failure="anonymous")
    with browser(app, base_url="http://testserver") as client:
        client.get("/put")
        store.fail()
        with client.websocket_connect("/chat") as socket:
            assert socket.receive_json() == {}
        with pytest.raises(WebSocketDisconnect) as closed, client.websocket_connect("/chat?write=1"):
            pass
        assert closed.value.code == 1013
        store.heal()
        assert client.get("/view").json() == {"n": 1}
