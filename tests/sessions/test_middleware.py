"""The middleware seen from outside: start-up, failures, headers, streams, WebSockets."""

import asyncio
import contextlib
import copy
import logging
import pickle
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from serverless_session import Session, SessionMiddleware, SharedState, load_session
from serverless_session.errors import ConfigurationError, SessionError, ValueNotSerializable
from serverless_session.stores import ANYTHING, Delete, MemoryStore, Operation, Outcome, Read, Write, new_version
from serverless_session.testing import CountingStore, FaultyStore, ManualClock
from tests.sessions.apps import ROUTES, SECRET, app_over, browser, counted

# --- start-up ---------------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "shared and store": ({"shared": SharedState("memory://"), "store": "memory://"}, "two-states"),
    "same_site": ({"secret_key": SECRET, "same_site": "sometimes"}, "bad-cookie"),
    "unknown store": ({"secret_key": SECRET, "store": "mongodb://x"}, "unknown-store"),
    "weak secret": ({"secret_key": "x" * 40, "store": "redis://localhost"}, "weak-secret"),
    "shared of a strange kind": ({"shared": "redis://localhost"}, "bad-shared"),
    "https_only of a strange kind": ({"secret_key": SECRET, "https_only": "yes"}, "bad-cookie"),
    "no number of a database": ({"secret_key": SECRET, "store": "redis://h/abc"}, "bad-store-url"),
    "store of a strange kind": ({"secret_key": SECRET, "store": object()}, "bad-store"),
    "path of a strange kind": ({"secret_key": SECRET, "path": None}, "bad-setting"),
    "odd option in the URL": (
        {"secret_key": SECRET, "store": "redis://h?ssl_cert_reqs=bogus&protocol=7"},
        "bad-store-url",
    ),
    "max_age": ({"secret_key": SECRET, "max_age": float("inf")}, "bad-max-age"),
    "no secret": ({"store": "redis://localhost"}, "no-secret"),
    **{
        name: ({"secret_key": SECRET} | options, code)
        for name, options, code in (
            ("exempt: one text", {"exempt": "/healthz"}, "bad-exempt"),
            ("exempt: without a slash", {"exempt": ["/a", "healthz"]}, "bad-exempt"),
            ("exempt: a pattern", {"exempt": ["/a*b"]}, "bad-exempt"),
            ("exempt: bytes", {"exempt": [b"/healthz"]}, "bad-exempt"),
            ("exempt: nothing", {"exempt": None}, "bad-setting"),
            ("origins: one text", {"allowed_origins": "https://a.example"}, "bad-origin"),
            ("origins: with a path", {"allowed_origins": ["https://a.example/"]}, "bad-origin"),
            ("origins: with a query", {"allowed_origins": ["https://a.example?x=1"]}, "bad-origin"),
            ("origins: with a user", {"allowed_origins": ["https://ann@a.example"]}, "bad-origin"),
            ("origins: a host alone", {"allowed_origins": ["a.example"]}, "bad-origin"),
            ("origins: all", {"allowed_origins": ["*"]}, "bad-origin"),
            ("origins: null", {"allowed_origins": ["null"]}, "bad-origin"),
            ("origins: no text", {"allowed_origins": [5]}, "bad-setting"),
            ("merge: no function", {"merge": {"visits": "sum"}}, "bad-merge"),
            ("merge: no text as a key", {"merge": {1: max}}, "bad-merge"),
            ("merge: no mapping", {"merge": ["visits"]}, "bad-merge"),
            ("together: one text", {"together": "tenant"}, "bad-together"),
            ("together: texts", {"together": ["tenant", "role"]}, "bad-together"),
            ("together: alone", {"together": [("tenant",)]}, "bad-together"),
            ("together: no texts", {"together": [("tenant", 1)]}, "bad-together"),
            ("together: a key twice", {"together": [("tenant", "role"), ("role", "team")]}, "two-merges"),
            ("together: with a strategy", {"together": [("a", "b")], "merge": {"a": max}}, "two-merges"),
            ("rolling without a life", {"rolling": True, "max_age": 0}, "no-life"),
            ("idle_timeout without a life", {"idle_timeout": 60, "max_age": -1}, "no-life"),
            ("absolute_timeout without a life", {"absolute_timeout": 60, "max_age": 0}, "no-life"),
            ("max_age: a text", {"max_age": "60"}, "bad-max-age"),
            ("max_age: not a number", {"max_age": float("nan")}, "bad-max-age"),
            ("max_age: a lifetime", {"max_age": timedelta(days=366 * 11)}, "bad-max-age"),
            ("idle_timeout: 0", {"idle_timeout": 0}, "bad-idle-timeout"),
            ("idle_timeout: below 0", {"idle_timeout": timedelta(seconds=-1)}, "bad-idle-timeout"),
            ("idle_timeout: a text", {"idle_timeout": "60"}, "bad-idle-timeout"),
            ("absolute_timeout: 0", {"absolute_timeout": 0}, "bad-absolute-timeout"),
            ("absolute_timeout: below 0", {"absolute_timeout": -5}, "bad-absolute-timeout"),
            ("absolute_timeout: endless", {"absolute_timeout": float("inf")}, "bad-absolute-timeout"),
            ("for other sites, not Secure", {"same_site": "none", "https_only": False}, "bad-cookie"),
            ("partitioned, not Secure", {"partitioned": True, "https_only": False}, "bad-cookie"),
            ("a __Host- name with a domain", {"session_cookie": "__Host-s", "domain": "a.example"}, "bad-cookie"),
            ("a cookie's name of a strange kind", {"session_cookie": 5}, "bad-setting"),
            ("on_conflict: unknown", {"on_conflict": "retry"}, "bad-on-conflict"),
            ("on_conflict: a switch", {"on_conflict": True}, "bad-on-conflict"),
            ("on_store_failure: unknown", {"on_store_failure": "ignore"}, "bad-on-store-failure"),
            ("on_store_failure: a number", {"on_store_failure": 503}, "bad-on-store-failure"),
            ("max_session_bytes: 0", {"max_session_bytes": 0}, "bad-size"),
            ("max_session_bytes: below 0", {"max_session_bytes": -1}, "bad-size"),
            ("max_session_bytes: a text", {"max_session_bytes": "64 KiB"}, "bad-size"),
            ("max_session_bytes: a switch", {"max_session_bytes": True}, "bad-size"),
            ("max_session_bytes: nothing", {"max_session_bytes": None}, "bad-size"),
            ("lazy: a text", {"lazy": "no"}, "bad-switch"),
            ("rolling: a number", {"rolling": 0}, "bad-switch"),
            ("partitioned: nothing", {"partitioned": None}, "bad-switch"),
        )
    },
}


@pytest.mark.parametrize(("options", "code"), WRONG.values(), ids=WRONG)
def test_a_wrong_setting_is_seen_at_start_up(options: dict[str, Any], code: str) -> None:
    app = Starlette(routes=ROUTES, middleware=[Middleware(SessionMiddleware, **options)])
    sent: list[Any] = []

    async def start() -> None:
        async def receive() -> Any:
            return {"type": "lifespan.startup"}

        async def send(message: Any) -> None:
            sent.append(message)

        await app({"type": "lifespan", "state": {}}, receive, send)

    with pytest.raises(ConfigurationError):
        asyncio.run(start())
    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
    assert f"[{code}]" in sent[0]["message"]
    assert len(sent[0]["message"].splitlines()) == 3


@pytest.mark.parametrize(("options", "code"), WRONG.values(), ids=WRONG)
def test_a_test_client_shows_a_wrong_setting_and_does_not_wait(options: dict[str, Any], code: str) -> None:
    app = Starlette(routes=ROUTES, middleware=[Middleware(SessionMiddleware, **options)])
    with pytest.raises(ConfigurationError) as caught, TestClient(app):
        pass
    assert caught.value.code == code


@pytest.mark.parametrize(("options", "code"), WRONG.values(), ids=WRONG)
def test_without_lifespan_a_wrong_setting_is_raised_at_each_request(options: dict[str, Any], code: str) -> None:
    client = TestClient(Starlette(routes=ROUTES, middleware=[Middleware(SessionMiddleware, **options)]))
    for _ in range(2):
        with pytest.raises(ConfigurationError) as caught:
            client.get("/plain")
        assert caught.value.code == code


# --- a store that fails -----------------------------------------------------------------------------------------------


def test_a_dead_store_is_503() -> None:
    store = FaultyStore(MemoryStore())
    with browser(app_over(SharedState(store, secret_key=SECRET))) as client:
        client.post("/update", json={"user": "ann"})
        store.fail()
        for response in (client.get("/view"), client.post("/update", json={"a": 1}), client.get("/plain")):
            assert response.status_code == 503
            assert response.headers["retry-after"] == "1"
            assert response.headers["cache-control"] == "no-store"
            assert response.headers["content-type"] == "application/problem+json"
            assert "set-cookie" not in response.headers
        store.heal()
        assert client.get("/view").json() == {"user": "ann"}


def test_a_save_that_fails_is_503_without_a_cookie() -> None:
    """THREATS 20: nobody sees an answer whose session was not kept."""
    store = FaultyStore(MemoryStore())
    with browser(app_over(SharedState(store, secret_key=SECRET))) as client:
        store.fail(on=(Write, Delete))
        response = client.post("/update", json={"user": "ann"})
        assert response.status_code == 503
        assert "set-cookie" not in response.headers
        store.heal()
        client.post("/update", json={"user": "ann"})
        store.fail(on=(Write, Delete))
        assert client.post("/clear").status_code == 503, "a logout that was not done does not look like one"
        store.heal()
        assert client.get("/view").json() == {"user": "ann"}


def test_a_record_under_a_key_the_ring_lacks_is_an_operators_fault(caplog: pytest.LogCaptureFixture) -> None:
    """THREATS 6: a rolling deploy that seals with a new key too early. 503, not logged out, nothing overwritten."""
    store, new = MemoryStore(), "x9Tq2mVb7LcZ0hRkWd4NyPfGs6JuEa13"
    old_copy = app_over(SharedState(store, secret_key=SECRET))
    new_copy = app_over(SharedState(store, secret_key=new, secret_key_fallbacks=[SECRET]))
    with browser(old_copy) as client:
        cookie = {"cookie": "session=" + client.post("/update", json={"user": "ann"}).cookies["session"]}
    with browser(new_copy) as client:
        assert client.post("/update", json={"seen": 1}, headers=cookie).json() == {"user": "ann", "seen": 1}
    with browser(old_copy) as client:
        assert client.post("/update", json={"lost": 1}, headers=cookie).status_code == 503
        assert "unknown-key" in caplog.text
    with browser(new_copy) as client:
        assert client.get("/view", headers=cookie).json() == {"user": "ann", "seen": 1}


def test_an_id_under_a_key_the_ring_lacks_is_a_made_up_id() -> None:
    store = CountingStore(MemoryStore())
    with browser(app_over(SharedState(store, secret_key=SECRET))) as client:
        cookie = client.post("/update", json={"user": "ann"}).cookies["session"]
    store.reset()
    with browser(app_over(SharedState(store, secret_key="x9Tq2mVb7LcZ0hRkWd4NyPfGs6JuEa13"))) as client:
        assert client.get("/view", headers={"cookie": f"session={cookie}"}).json() == {}
    assert store.calls == 0


def test_the_size_of_a_stored_session_tells_nothing_but_its_length() -> None:
    """THREATS 34: compressed, a guess that matches a secret beside it would be stored shorter."""
    secret, sizes = "f3a9c1d7e5b80246", set[int]()
    for guess in (secret, secret[::-1], "0" * 16, "a1" * 8):
        store = CountingStore(MemoryStore())
        # the clock's digits count too; and whatever compresses at all would compress even this little
        shared = SharedState(store, secret_key=SECRET, clock=ManualClock(1_000_000.0), compress_above_bytes=0)
        with browser(app_over(shared)) as client:
            client.post("/update", json={"csrf": secret, "search": guess})
        sizes.update(len(write.value) for write in store.operations if isinstance(write, Write))
    assert len(sizes) == 1


def test_a_damaged_record_ends_that_session() -> None:
    store = CountingStore(MemoryStore())
    with browser(app_over(SharedState(store, secret_key=SECRET))) as client:
        client.post("/update", json={"user": "ann"})
        (written,) = store.operations
        asyncio.run(store.write(written.key, b"damaged", ttl=60, version=new_version(), expect=ANYTHING))
        assert client.get("/view").json() == {}
        assert client.post("/update", json={"user": "bob"}).json() == {"user": "bob"}
        assert client.get("/view").json() == {"user": "bob"}


# --- what cannot be kept ----------------------------------------------------------------------------------------------


def test_what_cannot_be_kept_is_an_error_that_names_the_keys_and_nothing_is_lost() -> None:
    class Product:
        def __repr__(self) -> str:
            return "secret value"

    async def bad(request: Request) -> Response:
        request.session["cart"] = [{"item": Product()}]
        return JSONResponse({})

    shared, _ = counted()
    with browser(app_over(shared, Route("/bad", bad))) as client:
        client.post("/update", json={"user": "ann"})
        with pytest.raises(ValueNotSerializable, match=r"request\.session\['cart'\]\[0\]\['item'\]") as caught:
            client.get("/bad")
        assert "secret value" not in str(caught.value)
        assert client.get("/view").json() == {"user": "ann"}


# --- headers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "new", "kept"),
    [
        (None, "no-store", "private"),
        ("public, max-age=60", "no-store", "public, max-age=60"),
        ("max-age=60", "no-store", "max-age=60, private"),
        ("s-maxage=60", "no-store", "s-maxage=60"),
        ("private, max-age=60", "private, max-age=60", "private, max-age=60"),
        ("no-store", "no-store", "no-store"),
    ],
)
def test_what_a_shared_cache_may_keep(said: str | None, new: str, kept: str) -> None:
    """THREATS 26, THREATS 7: never our cookie, and nobody's page unless the app says that it is for all."""

    async def page(request: Request) -> Response:
        request.session.setdefault("seen", True)
        return JSONResponse({}, headers={"cache-control": said, "cdn-cache-control": "max-age=9"} if said else {})

    shared, _ = counted()
    with browser(app_over(shared, Route("/page", page))) as client:
        first, second = client.get("/page"), client.get("/page")
    assert "set-cookie" in first.headers
    assert first.headers["cache-control"] == new
    assert "cdn-cache-control" not in first.headers
    assert "set-cookie" not in second.headers
    assert second.headers["cache-control"] == kept


def test_vary_is_added_to_what_is_there() -> None:
    def page(vary: str) -> Route:
        async def endpoint(request: Request) -> Response:
            return JSONResponse(request.session, headers={"vary": vary})

        return Route(f"/{vary}", endpoint)

    shared, _ = counted()
    with browser(app_over(shared, page("Accept"), page("*"), page("cookie"))) as client:
        assert client.get("/Accept").headers["vary"] == "Accept, Cookie"
        assert client.get("/*").headers["vary"] == "*"
        assert client.get("/cookie").headers["vary"] == "cookie"


def test_secure_whenever_the_request_came_over_https() -> None:
    shared, _ = counted()
    for base, secure in (("https://testserver", True), ("http://testserver", False)):
        with browser(app_over(shared), base_url=base) as client:
            assert ("; secure" in client.post("/update", json={"a": 1}).headers["set-cookie"]) is secure


def test_several_genuine_cookies_count_as_none() -> None:
    """THREATS 18: a tossed cookie of a sibling domain."""
    shared, store = counted()
    with browser(app_over(shared)) as one, browser(app_over(shared)) as two:
        cookies = [
            client.post("/update", json={"user": name}).cookies["session"] for client, name in ((one, "a"), (two, "b"))
        ]
    with browser(app_over(shared)) as client:
        store.reset()
        assert client.get("/view", headers={"cookie": f"session={cookies[0]}; session={cookies[1]}"}).json() == {}
        assert store.calls == 0
        same_twice = f"session={cookies[0]}; session=junk; session={cookies[0]}"
        assert client.get("/view", headers={"cookie": same_twice}).json() == {"user": "a"}


# --- when it is saved -------------------------------------------------------------------------------------------------


def streaming(when: str) -> Route:
    """A stream that changes an existing session before its last chunk, or in a background task after it."""

    async def endpoint(request: Request) -> Response:
        session = request.session

        async def body() -> AsyncIterator[str]:
            yield "one"
            if when == "streaming":
                session["late"] = 1
            yield "two"

        async def after() -> None:
            if when == "background":
                session["late"] = 1

        return StreamingResponse(body(), background=BackgroundTask(after))

    return Route(f"/{when}", endpoint)


@pytest.mark.parametrize("when", ["streaming", "background"])
@pytest.mark.parametrize("between", [False, True], ids=["plain", "BaseHTTPMiddleware"])
def test_changes_after_the_start_are_saved(when: str, between: bool) -> None:
    """THREATS 19."""

    async def pass_on(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    shared, _ = counted()
    inner = [Middleware(BaseHTTPMiddleware, dispatch=pass_on)] if between else []
    app = Starlette(
        routes=[*ROUTES, streaming(when)], middleware=[Middleware(SessionMiddleware, shared=shared), *inner]
    )
    with browser(app) as client:
        client.post("/update", json={"user": "ann"})
        assert client.get(f"/{when}").text == "onetwo"
        assert client.get("/view").json() == {"user": "ann", "late": 1}


def test_a_session_begun_after_the_start_is_an_error() -> None:
    shared, store = counted()
    with browser(app_over(shared, streaming("streaming"))) as client:
        with pytest.raises(SessionError, match="session-too-late"):
            client.get("/streaming")
        assert store.calls == 0


@pytest.mark.parametrize("late", ["regenerate", "clear and write"])
def test_a_new_id_after_the_start_is_an_error_and_the_old_one_stays(late: str) -> None:
    async def endpoint(request: Request) -> Response:
        async def body() -> AsyncIterator[str]:
            yield "one"
            session = request.scope["session"]
            if late == "regenerate":
                session.regenerate()
            else:
                session.clear()
                session["user"] = "bob"
            yield "two"

        return StreamingResponse(body())

    shared, _ = counted()
    with browser(app_over(shared, Route("/late", endpoint))) as client:
        client.post("/update", json={"user": "ann"})
        with pytest.raises(SessionError, match="session-too-late"):
            client.get("/late")
        assert client.get("/view").json() == ({"user": "ann"} if late == "regenerate" else {})


def test_an_exception_saves_nothing_but_endings() -> None:
    async def change_and_raise(request: Request) -> Response:
        request.session["a"] = 1
        raise RuntimeError

    async def end_and_raise(request: Request) -> Response:
        request.session.clear()
        raise RuntimeError

    shared, _ = counted()
    app = app_over(shared, Route("/change", change_and_raise), Route("/end", end_and_raise))
    with TestClient(app, raise_server_exceptions=False) as client:
        client.post("/update", json={"user": "ann"})
        assert client.get("/change").status_code == 500
        assert client.get("/view").json() == {"user": "ann"}
        assert client.get("/end").status_code == 500
        assert client.get("/view").json() == {}


async def test_a_save_is_finished_though_the_caller_is_cancelled() -> None:
    """THREATS 41."""
    entered, go_on = asyncio.Event(), asyncio.Event()

    class Slow(MemoryStore):
        async def perform(self, *operations: Operation) -> Sequence[Outcome]:
            if not isinstance(operations[0], Read):
                entered.set()
                await go_on.wait()
            return await super().perform(*operations)

    store = Slow()
    app = app_over(SharedState(store, secret_key=SECRET))
    scope = {"type": "http", "method": "POST", "path": "/update", "headers": [], "query_string": b"", "scheme": "https"}

    async def receive() -> Any:
        return {"type": "http.request", "body": b'{"user": "ann"}'}

    async def send(message: Any) -> None:
        raise AssertionError("nothing is sent to a caller that has gone")

    task = asyncio.ensure_future(app(scope, receive, send))
    await entered.wait()
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(store._entries) == 1


@pytest.mark.parametrize("assigned", [{}, {"user": "bob"}, {"cart": [1], "n": 2}])
def test_a_dict_assigned_in_place_of_the_session_is_its_contents(assigned: dict[str, Any]) -> None:
    """THREATS 13, in part: Starlette answers 500; an app that logs out like this must not stay logged in."""

    async def assign(request: Request) -> Response:
        request.scope["session"] = dict(assigned)
        return JSONResponse({})

    shared, _ = counted()
    with browser(app_over(shared, Route("/assign", assign))) as client:
        client.post("/update", json={"user": "ann", "cart": []})
        client.get("/assign")
        assert client.get("/view").json() == assigned
        assert ("session" in client.cookies) is bool(assigned)


@pytest.mark.parametrize("then", ["raises", "returns"])
def test_an_empty_dict_assigned_is_a_logout_wherever_the_request_ends(then: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session"] = {}
        if then == "raises":
            raise RuntimeError

    shared, _ = counted()
    with browser(app_over(shared)) as client:
        cookie = client.post("/update", json={"user": "ann"}).cookies["session"]
        scope = {"type": "http", "scheme": "https", "headers": [(b"cookie", f"session={cookie}".encode())]}
        with contextlib.suppress(RuntimeError):
            asyncio.run(SessionMiddleware(app, shared=shared)(scope, receive_nothing, send_nothing))
        assert client.get("/view").json() == {}


# --- the session's own facts ------------------------------------------------------------------------------------------


def test_what_a_session_knows_of_itself() -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
    shared = SharedState(MemoryStore(clock=clock), secret_key=SECRET, clock=clock)
    seen: list[tuple[bool, datetime, datetime]] = []

    async def facts(request: Request) -> Response:
        session = await load_session(request)
        seen.append((session.is_new, session.created_at, session.expires_at))
        session.setdefault("n", 1)
        return JSONResponse(session)

    with browser(app_over(shared, Route("/facts", facts), max_age=timedelta(hours=1))) as client:
        first = client.get("/facts")
        assert "Max-Age=3600;" in first.headers["set-cookie"]
        clock.advance(60)
        client.get("/facts")
        clock.advance(timedelta(hours=1))
        client.cookies.set("session", first.cookies["session"])
        client.get("/facts")
    begun = datetime(2026, 1, 1, tzinfo=UTC)
    later = begun + timedelta(minutes=61)
    assert seen[:2] == [(is_new, begun, begun + timedelta(hours=1)) for is_new in (True, False)]
    assert seen[2] == (True, later, later + timedelta(hours=1))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda session: pickle.loads(pickle.dumps(session))])
def test_a_copy_of_a_session_is_a_dict_that_nobody_saves(copied: Callable[[Session], dict[str, Any]]) -> None:
    """A page makes one to compare before and after, or to hand the contents to a worker."""

    async def copy_it(request: Request) -> Response:
        of_it = copied(await load_session(request))
        assert type(of_it) is dict
        of_it["copy"] = 1
        return JSONResponse(of_it)

    shared, _ = counted()
    with browser(app_over(shared, Route("/copy", copy_it))) as client:
        client.post("/update", json={"cart": ["milk"]})
        assert client.get("/copy").json() == {"cart": ["milk"], "copy": 1}
        assert client.get("/view").json() == {"cart": ["milk"]}


def test_a_mistyped_attribute_is_an_error() -> None:
    with pytest.raises(AttributeError):
        Session().user_idd = "ann"  # type: ignore[attr-defined]


async def test_load_session_without_our_middleware_names_what_to_write() -> None:
    with pytest.raises(SessionError, match="add_middleware"):
        await load_session(Request({"type": "http", "headers": []}))


def test_no_secret_or_value_in_any_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    store = FaultyStore(MemoryStore())
    with browser(app_over(SharedState(store, secret_key=SECRET))) as client:
        ids = [client.post("/update", json={"user": "ann-the-visitor"}).cookies["session"]]
        ids.append(client.post("/regenerate").cookies["session"])
        client.get("/view", headers={"cookie": f"session={ids[0]}"})
        store.fail()
        client.get("/view")
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("serverless_session"))
    assert "store.unavailable" in ours
    for secret in (*ids, SECRET, "ann-the-visitor"):
        assert secret not in ours


# --- WebSocket --------------------------------------------------------------------------------------------------------


async def chat(websocket: WebSocket) -> None:
    session = await load_session(websocket)
    session["opened"] = session.get("opened", 0) + 1
    await websocket.accept()
    session["said"] = await websocket.receive_text()
    await websocket.send_json(session)
    await websocket.close()


def test_a_websocket_has_the_session_and_saves_it() -> None:
    shared, _ = counted()
    app = app_over(shared, WebSocketRoute("/chat", chat))  # type: ignore[arg-type]
    with browser(app, base_url="http://testserver") as client:
        client.post("/update", json={"user": "ann"})
        with client.websocket_connect("/chat") as socket:
            socket.send_text("hello")
            assert socket.receive_json() == {"user": "ann", "opened": 1, "said": "hello"}
        assert client.get("/view").json() == {"user": "ann", "opened": 1, "said": "hello"}


def test_a_websocket_opened_by_another_site_has_no_session() -> None:
    """THREATS 42."""
    shared, _ = counted()
    app = app_over(shared, WebSocketRoute("/chat", chat))  # type: ignore[arg-type]
    with browser(app, base_url="http://testserver") as client:
        client.post("/update", json={"user": "ann"})
        with client.websocket_connect("/chat", headers={"origin": "https://evil.example"}) as socket:
            assert not socket.extra_headers
            socket.send_text("hello")
            assert "user" not in socket.receive_json()
        with client.websocket_connect("/chat", headers={"origin": "http://testserver"}) as socket:
            socket.send_text("hello")
            assert socket.receive_json()["user"] == "ann"


@pytest.mark.parametrize("deny", ["close", "response"])
def test_a_logout_in_a_handshake_that_is_refused_is_carried_out(deny: str) -> None:
    async def refuse(websocket: WebSocket) -> None:
        (await load_session(websocket)).logout()
        if deny == "close":
            await websocket.close(4401)
        else:
            await websocket.send_denial_response(JSONResponse({}, 401))

    shared, _ = counted()
    app = app_over(shared, WebSocketRoute("/chat", refuse))  # type: ignore[arg-type]
    with browser(app, base_url="http://testserver") as client:
        client.post("/update", json={"user": "ann"})
        cookie = {"cookie": f"session={client.cookies['session']}"}
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/chat"):
            pass
        assert client.get("/view", headers=cookie).json() == {}


async def test_a_logout_of_an_app_that_never_answers_is_carried_out() -> None:
    shared, _ = counted()

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        scope["session"].logout()

    with browser(app_over(shared)) as client:
        cookie = client.post("/update", json={"user": "ann"}).cookies["session"]
        scope = {"type": "http", "scheme": "https", "headers": [(b"cookie", f"session={cookie}".encode())]}
        await SessionMiddleware(silent, shared=shared)(scope, receive_nothing, send_nothing)
        assert client.get("/view").json() == {}


async def receive_nothing() -> Any:
    raise AssertionError


async def send_nothing(message: Any) -> None:
    raise AssertionError


def test_a_websocket_over_a_dead_store_is_refused() -> None:
    store = FaultyStore(MemoryStore())
    app = app_over(SharedState(store, secret_key=SECRET), WebSocketRoute("/chat", chat))  # type: ignore[arg-type]
    with browser(app, base_url="http://testserver") as client:
        client.post("/update", json={"user": "ann"})
        store.fail()
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/chat"):
            pass
