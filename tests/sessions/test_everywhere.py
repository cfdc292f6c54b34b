"""Wherever a request may end: in threads, streams and background tasks, by exceptions, by clients that leave.

The matrix of THREATS 19 is one table, shown on uvicorn, by direct calls and through the Lambda handler.
"""

import asyncio
import contextlib
import queue
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi import Request as FastAPIRequest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from serverless_session import LambdaHandler, Session, SessionMiddleware, SharedState, load_session
from serverless_session.errors import ServerlessSessionError, SessionError
from serverless_session.fastapi import CurrentSession
from serverless_session.stores import MemoryStore, Read, Write
from serverless_session.testing import CountingStore
from tests.aws.events import Context, event_v2
from tests.sessions.apps import ROUTES, SECRET, app_over, browser, counted
from tests.sessions.direct import PATIENCE, call, scope_of, set_by

# --- threads ----------------------------------------------------------------------------------------------------------


def put_in_a_thread(request: Request) -> Response:
    request.session[request.path_params["key"]] = 1
    return JSONResponse(request.session)


def starlette_in_threads(shared: SharedState) -> Starlette:
    def log_out(request: Request) -> Response:
        request.scope["session"].logout()
        return JSONResponse({})

    return app_over(shared, Route("/put/{key}", put_in_a_thread), Route("/out", log_out))


def fastapi_in_threads(shared: SharedState) -> FastAPI:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, shared=shared)

    @app.get("/put/{key}")
    def put(session: CurrentSession, key: str) -> dict[str, Any]:
        session[key] = 1
        return session

    @app.get("/out")
    def log_out(session: CurrentSession) -> None:
        session.logout()

    @app.get("/view")
    def view(request: FastAPIRequest) -> dict[str, Any]:
        return request.session

    return app


@pytest.mark.parametrize("app", [starlette_in_threads, fastapi_in_threads])
def test_what_a_sync_endpoint_changes_in_its_thread_is_saved(app: Callable[[SharedState], Starlette]) -> None:
    shared, store = counted()
    with browser(app(shared)) as client:
        client.get("/put/a")
        store.reset()
        assert client.get("/put/b").json() == {"a": 1, "b": 1}
        assert [type(operation) for operation in store.operations] == [Read, Write]
        assert client.get("/view").json() == {"a": 1, "b": 1}
        client.get("/out")
        assert client.get("/view").json() == {}


# --- exceptions that somebody answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "kept"), [(ValueError, 418, True), (HTTPException(403), 403, True), (RuntimeError, 500, False)]
)
def test_an_exception_that_the_app_answers_is_an_answer(error: type[Exception], status: int, kept: bool) -> None:
    """A handler's answer is one like any other. That of `Exception` is given outside of every middleware: too late."""

    async def change_and_raise(request: Request) -> Response:
        request.session["seen"] = True
        raise error

    async def answer(request: Request, error: Exception) -> Response:
        return PlainTextResponse("", 418 if isinstance(error, ValueError) else 500)

    shared, _ = counted()
    app = app_over(shared, Route("/raise", change_and_raise))
    for handled in (ValueError, Exception):
        app.add_exception_handler(handled, answer)
    with TestClient(app, base_url="https://testserver", raise_server_exceptions=False) as client:
        client.post("/update", json={"user": "ann"})
        assert client.get("/raise").status_code == status
        assert client.get("/view").json() == {"user": "ann"} | ({"seen": True} if kept else {})


# --- the matrix -------------------------------------------------------------------------------------------------------

WHAT: dict[str, Callable[[Session], object]] = {
    "change": lambda session: session.update(changed=True),
    "end": lambda session: session.logout(),
    "regenerate": lambda session: session.regenerate(),
    "login": lambda session: session.login("bob"),
}

SAVED, ENDED, MOVED, STANDS = "saved", "ended", "moved", "stands"

EXPECTED: dict[str, Sequence[str]] = {
    # how the request goes on         change  end    regenerate login
    "normal":                        (SAVED, ENDED, MOVED, MOVED),
    "background":                    (SAVED, ENDED, STANDS, STANDS),
    "raise before the start":        (STANDS, ENDED, STANDS, STANDS),
    "raise after the start":         (STANDS, ENDED, STANDS, STANDS),
    "raise after the save":          (SAVED, ENDED, MOVED, MOVED),
    "disconnect":                    (SAVED, ENDED, STANDS, STANDS),
    "cancel before the start":       (STANDS, ENDED, STANDS, STANDS),
    "cancel after the start":        (STANDS, ENDED, STANDS, STANDS),
}  # fmt: skip
"""Saved before the start, or by a client's leaving; an exception and a cancellation carry out endings alone; a new id
that no cookie can follow is refused."""

EXPECTED_BEHIND_BASE_HTTP_MIDDLEWARE = EXPECTED | {
    "raise after the start": (SAVED, ENDED, STANDS, STANDS),
    "cancel after the start": (SAVED, ENDED, STANDS, STANDS),
}
"""It finishes the answer cleanly before it raises what the app has raised, so it is one like any other until then."""

CELLS = [(how, what) for how in EXPECTED for what in WHAT]


def outcome(how: str, what: str, between: str = "plain") -> str:
    expected = EXPECTED_BEHIND_BASE_HTTP_MIDDLEWARE if between == "BaseHTTPMiddleware" else EXPECTED
    return expected[how][list(WHAT).index(what)]


async def normal(request: Request) -> Response:
    asked_for(request)
    return PlainTextResponse("begun")


async def background(request: Request) -> Response:
    return PlainTextResponse("begun", background=BackgroundTask(asked_for, request))


async def raise_before(request: Request) -> Response:
    asked_for(request)
    raise RuntimeError("before the start")


async def raise_after(request: Request) -> Response:
    async def body() -> AsyncIterator[str]:
        yield "begun"
        asked_for(request)
        raise RuntimeError("after the start")

    return StreamingResponse(body())


async def raise_after_the_save(request: Request) -> Response:
    async def body() -> AsyncIterator[str]:
        yield "begun"
        raise RuntimeError("after the save")

    asked_for(request)
    return StreamingResponse(body())


async def disconnect(request: Request) -> Response:
    async def body() -> AsyncIterator[str]:
        asked_for(request)
        while True:
            yield "begun"
            await asyncio.sleep(0.001)

    async def begun() -> AsyncIterator[str]:
        yield "begun"
        async for chunk in body():
            yield chunk

    return StreamingResponse(begun())


async def cancel_before(request: Request) -> Response:
    asked_for(request)
    await cancelled()
    raise AssertionError


class CancelAfter:
    """No function, so a route calls it as an ASGI app: Starlette's streams run in tasks of their own."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        asked_for(Request(scope))
        await cancelled()


async def cancelled() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.Event().wait()


def asked_for(request: Request) -> None:
    WHAT[request.path_params["what"]](request.scope["session"])


ENDPOINTS: tuple[Callable[..., Any], ...] = (
    normal,
    background,
    raise_before,
    raise_after,
    raise_after_the_save,
    disconnect,
    cancel_before,
    CancelAfter(),
)


async def pass_on(request: Request, call_next: Any) -> Any:
    return await call_next(request)


async def look(request: Request) -> Response:
    session = await load_session(request)
    return JSONResponse({"data": session, "user_id": session.user_id})


def path_to(how: str, what: str) -> str:
    return f"/{how.replace(' ', '-')}/{what}"


def app_of_the_matrix(shared: SharedState, between: str = "plain") -> Starlette:
    routes = [Route(path_to(how, "{what}"), endpoint) for how, endpoint in zip(EXPECTED, ENDPOINTS, strict=True)]
    inner = [Middleware(BaseHTTPMiddleware, dispatch=pass_on)] if between == "BaseHTTPMiddleware" else []
    return Starlette(
        routes=[*routes, *ROUTES, Route("/look", look)],
        middleware=[Middleware(SessionMiddleware, shared=shared), *inner],
    )


class Visitor:
    """Begins sessions, and looks later at what has become of them."""

    def __init__(self, client: TestClient) -> None:
        self._client = client

    def begin(self) -> str:
        self._client.cookies.clear()
        cookie = self._client.post("/update", json={"user": "ann"}).cookies["session"]
        self._client.cookies.clear()
        return cookie

    def sees(self, cookie: str) -> tuple[dict[str, Any], str | None]:
        seen = self._client.get("/look", headers={"cookie": f"session={cookie}"}).json()
        return seen["data"], seen["user_id"]

    def check(self, expected: str, what: str, cookie: str, new: str | None) -> None:
        """`new`: the cookie that the answer has set."""
        data, _ = self.sees(cookie)
        match expected:
            case "saved":
                assert (data, new) == ({"user": "ann", "changed": True}, None)
            case "ended":
                assert (data, new) == ({}, None)
            case "stands":
                assert (data, new) == ({"user": "ann"}, None)
            case "moved":
                assert data == {}
                assert new is not None
                assert self.sees(new) == ({"user": "ann"}, "bob" if what == "login" else None)


@pytest.fixture(scope="module")
def shared() -> SharedState:
    return SharedState(MemoryStore(), secret_key=SECRET)


@pytest.fixture(scope="module")
def visitor(shared: SharedState) -> Iterator[Visitor]:
    with browser(app_of_the_matrix(shared)) as client:
        yield Visitor(client)


# --- on uvicorn -------------------------------------------------------------------------------------------------------


class Uvicorn:
    """uvicorn in a thread, and how each of its requests ended."""

    def __init__(self, shared: SharedState, between: str) -> None:
        self.app = app_of_the_matrix(shared, between)
        self.between = between
        self.ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._server = uvicorn.Server(uvicorn.Config(self._serve, port=0, interface="asgi3", log_level=60))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        ended: BaseException | None = None
        try:
            await self.app(scope, receive, send)
        except BaseException as error:
            ended = error
            raise
        finally:
            self.ended.put(ended)

    def __enter__(self) -> "Uvicorn":
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        give_up_at = time.monotonic() + PATIENCE
        while not self._server.started:
            assert self._thread.is_alive()
            assert time.monotonic() < give_up_at
            time.sleep(0.005)
        self._port: int = self._server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def get(self, path: str, cookie: str, *, leave: bool) -> str:
        """The answer's bytes as text; `leave`: hang up as soon as the body has begun."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE) as connection:
            lines = (f"GET {path} HTTP/1.1", "Host: shop", f"Cookie: session={cookie}", "Connection: close")
            connection.sendall("\r\n".join((*lines, "", "")).encode())
            answer = b""
            while piece := connection.recv(65_536):
                answer += piece
                if leave and answer.count(b"begun") > 1:
                    break
        return answer.decode()


@pytest.fixture(scope="module", params=["plain", "BaseHTTPMiddleware"])
def server(request: pytest.FixtureRequest, shared: SharedState) -> Iterator[Uvicorn]:
    with Uvicorn(shared, request.param) as server:
        yield server


def is_too_late(how: str, what: str) -> bool:
    """No cookie can follow: the call itself raises, before anything else happens in that way of ending."""
    return what in ("regenerate", "login") and (how in ("background", "disconnect") or "after the start" in how)


@pytest.mark.parametrize(("how", "what"), CELLS)
def test_however_a_request_ends_on_uvicorn(server: Uvicorn, visitor: Visitor, how: str, what: str) -> None:
    """THREATS 19."""
    cookie = visitor.begin()
    answer = server.get(path_to(how, what), cookie, leave=how == "disconnect")
    server.ended.get(timeout=PATIENCE)
    visitor.check(outcome(how, what, server.between), what, cookie, set_by(answer))


# --- by direct calls --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "what"), CELLS)
@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
async def test_however_a_request_ends_by_direct_calls(
    shared: SharedState, visitor: Visitor, how: str, what: str, spec_version: str
) -> None:
    """THREATS 19. From ASGI 2.4 on, Starlette makes an exception of a client that leaves; it is no failure."""
    cookie = visitor.begin()
    scope = scope_of(path_to(how, what), cookie, spec_version=spec_version)
    said = await call(app_of_the_matrix(shared), scope, leave=how == "disconnect")
    visitor.check(outcome(how, what), what, cookie, said.cookie)
    assert isinstance(said.error, SessionError) is is_too_late(how, what)


# --- through the Lambda handler ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "what"), [cell for cell in CELLS if cell[0] != "disconnect"])
def test_however_a_request_ends_through_the_lambda_handler(
    shared: SharedState, visitor: Visitor, how: str, what: str
) -> None:
    """THREATS 19. There is no client that could leave: the whole answer is handed to Lambda."""
    cookie = visitor.begin()
    handler = LambdaHandler(app_of_the_matrix(shared))
    answer: dict[str, Any] = {}
    event = event_v2(path=path_to(how, what), cookies=(f"session={cookie}",))
    try:
        cancelled = "cancel" in how and not is_too_late(how, what)
        with pytest.raises(ServerlessSessionError) if cancelled else contextlib.nullcontext():
            answer = handler(event, Context(PATIENCE))
    finally:
        handler.close()
    headers = "".join(f"set-cookie: {cookie}" for cookie in answer.get("cookies", ()))
    visitor.check(outcome(how, what), what, cookie, set_by(headers))


# --- save() before the start ------------------------------------------------------------------------------------------


def app_that(endpoint: Callable[[Session], Awaitable[object]]) -> tuple[Starlette, CountingStore]:
    async def serve(request: Request) -> Response:
        return JSONResponse(await endpoint(await load_session(request)))

    shared, store = counted()
    return app_over(shared, Route("/it", serve)), store


def test_save_before_the_start_and_its_cookie_goes_out_with_the_start() -> None:
    async def save_twice(session: Session) -> Any:
        session["one"] = 1
        saved = [await session.save(), await session.save()]
        session["two"] = 2
        return [*saved, await session.save()]

    app, store = app_that(save_twice)
    with browser(app) as client:
        answer = client.get("/it")
        assert answer.json() == [True, True, True]
        assert [type(operation) for operation in store.operations] == [Write, Write], "saved where it was asked for"
        assert len(answer.headers.get_list("set-cookie")) == 1
        assert answer.headers["cache-control"] == "no-store"
        assert client.get("/view").json() == {"one": 1, "two": 2}


def test_save_carries_out_what_was_asked_for_and_the_last_cookie_counts() -> None:
    async def log_in(session: Session) -> Any:
        session.login("ann")
        await session.save()
        return session.user_id

    async def log_out(session: Session) -> Any:
        session["late"] = 1
        await session.save()
        session.logout()
        return await session.save()

    async def begin_anew(session: Session) -> Any:
        session.logout()
        await session.save()
        session["anew"] = 1

    for endpoint in (log_in, log_out, begin_anew):
        app, _ = app_that(endpoint)
        with browser(app) as client:
            old = client.post("/update", json={"a": 1}).cookies["session"]
            answer = client.get("/it")
            (cookie,) = answer.headers.get_list("set-cookie")
            assert cookie.startswith("session=null;") is (endpoint is log_out)
            expected = {log_in: {"a": 1}, log_out: {}, begin_anew: {"anew": 1}}[endpoint]
            assert client.get("/view").json() == expected
            assert client.get("/view", headers={"cookie": f"session={old}"}).json() == {}


def test_reload_in_a_request_sees_what_another_has_changed_and_keeps_what_is_unsaved() -> None:
    async def look_again(session: Session) -> Any:
        session["mine"] = 1
        other.post("/update", json={"theirs": 2})
        return [await session.reload(), dict(session)]

    app, _ = app_that(look_again)
    with browser(app) as client, browser(app) as other:
        client.post("/update", json={"a": 0})
        other.cookies.update(client.cookies)
        assert client.get("/it").json() == [True, {"a": 0, "mine": 1, "theirs": 2}]
        assert client.get("/view").json() == {"a": 0, "mine": 1, "theirs": 2}


def test_a_cookie_that_a_save_owes_is_not_sent_where_the_session_has_ended_since() -> None:
    async def save_and_go_on(session: Session) -> Any:
        session.regenerate()
        saved = [await session.save()]
        other.post("/clear")
        session["late"] = 1
        return saved

    app, _ = app_that(save_and_go_on)
    with browser(app) as client, browser(app) as other:
        client.post("/update", json={"user": "ann"})
        other.cookies.update(client.cookies)
        answer = client.get("/it")
        assert answer.json() == [True]
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("after", [{}, {"flash": "bye"}])
def test_reload_after_a_logout_brings_nothing_back(after: dict[str, str]) -> None:
    async def log_out_and_look_again(session: Session) -> Any:
        session.logout()
        session.update(after)
        other.post("/update", json={"theirs": 2})
        return [await session.reload(), dict(session)]

    app, _ = app_that(log_out_and_look_again)
    with browser(app) as client, browser(app) as other:
        client.post("/update", json={"a": 0})
        other.cookies.update(client.cookies)
        assert client.get("/it").json() == [False, after]
        assert client.get("/view").json() == after


@pytest.mark.parametrize("when", ["before the start", "in the stream"])
def test_a_session_emptied_key_by_key_saved_and_filled_again_is_kept(when: str) -> None:
    """A cookie that was never removed, or is set again, needs no other one for what is changed later."""

    async def endpoint(request: Request) -> Response:
        session = request.scope["session"]

        async def empty_and_fill() -> None:
            del session["user"]
            await session.save()
            session["user"] = "bob"

        async def body() -> AsyncIterator[str]:
            yield "begun"
            if when == "in the stream":
                await empty_and_fill()
            await session.save()
            session["late"] = 1

        if when == "before the start":
            await empty_and_fill()
        return StreamingResponse(body())

    shared, _ = counted()
    with browser(app_over(shared, Route("/it", endpoint))) as client:
        client.post("/update", json={"user": "ann"})
        assert client.get("/it").text == "begun"
        assert client.get("/view").json() == {"user": "bob", "late": 1}


def test_what_is_written_after_a_logout_that_was_saved_begins_a_session_and_may_change_in_the_stream() -> None:
    async def endpoint(request: Request) -> Response:
        session = request.scope["session"]
        session.logout()
        assert await session.save()
        session["anew"] = 1

        async def body() -> AsyncIterator[str]:
            yield "begun"
            session["late"] = 1

        return StreamingResponse(body())

    shared, _ = counted()
    with browser(app_over(shared, Route("/it", endpoint))) as client:
        client.post("/update", json={"user": "ann"})
        assert client.get("/it").text == "begun"
        assert client.get("/view").json() == {"anew": 1, "late": 1}
