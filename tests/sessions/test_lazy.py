"""`lazy=True`: no trip until somebody asks for the session, and until then nobody takes it for an empty one."""

import asyncio
import copy
import json
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from serverless_session import SessionMiddleware, SharedState, load_session
from serverless_session.errors import SessionNotLoaded, StoreError, StoreUnavailable
from serverless_session.fastapi import CurrentSession
from serverless_session.stores import MemoryStore, Read
from serverless_session.testing import CountingStore, FaultyStore
from tests.sessions.apps import SECRET, app_over, browser, counted, doing
from tests.sessions.direct import call, scope_of

LOADS = [
    doing("/see", lambda session: None),
    doing("/put", lambda session: session.__setitem__("n", session.get("n", 0) + 1)),
    doing("/end", lambda session: session.logout()),
]


def test_there_is_no_trip_until_the_session_is_asked_for_and_then_as_many_as_ever() -> None:
    shared, store = counted()
    with browser(app_over(shared, *LOADS, lazy=True)) as client:

        def trips(path: str) -> int:
            store.reset()
            assert client.get(path).status_code == 200
            return store.calls

        assert [trips(path) for path in ("/plain", "/see", "/put")] == [0, 0, 1], "no cookie"
        assert [trips(path) for path in ("/plain", "/see", "/put", "/see", "/end")] == [0, 1, 2, 1, 2]
        assert client.get("/see").json() == {}


def test_a_request_that_never_loads_is_anybodys() -> None:
    """THREATS 7, the other way round: what is made without the session needs no word to shared caches."""
    shared, _ = counted()
    with browser(app_over(shared, *LOADS, lazy=True)) as client:
        client.get("/put")
        plain, see = client.get("/plain"), client.get("/see")
        assert {"vary", "cache-control", "set-cookie"}.isdisjoint(plain.headers)
        assert (see.headers["vary"], see.headers["cache-control"]) == ("Cookie", "private")


# --- what stands in its place -----------------------------------------------------------------------------------------


def match_it(it: Any) -> object:
    match it:
        case {"user": user}:
            return user
        case _:
            return None


def key_by_key(it: Any) -> object:
    return [key for key in it]  # noqa: C416 - the loop is what is tried


def assign_item(it: Any) -> None:
    it["user"] = "ann"


def delete_item(it: Any) -> None:
    del it["user"]


def or_in_place(it: Any) -> None:
    it |= {"a": 1}


def into_another(it: Any) -> None:
    other: dict[str, object] = {}
    other |= it


USES: dict[str, Callable[[Any], object]] = {
    **{
        f"{name}()": lambda it, name=name: getattr(it, name)  # type: ignore[misc]
        for name in (
            *(name for name in vars(dict) if not name.startswith("__")),
            *("user_id", "is_new", "login", "logout", "regenerate", "change", "save", "accessed", "mark_accessed"),
        )
    },
    "[]": lambda it: it["user"],
    "[]=": assign_item,
    "del": delete_item,
    "in": lambda it: "user" in it,
    "not in": lambda it: "user" not in it,
    "bool": bool,
    "not": lambda it: not it,
    "len": len,
    "iter": iter,
    "for": key_by_key,
    "list": list,
    "sorted": sorted,
    "reversed": lambda it: list(reversed(it)),
    "dict": dict,
    "{**}": lambda it: {**it},
    "f(**)": lambda it: dict(**it),
    "update": lambda it: {}.update(it),
    "==": lambda it: it == {},
    "== from the left": lambda it: {} == it,  # noqa: SIM300
    "!=": lambda it: it != {},
    "|": lambda it: it | {},
    "| from the left": lambda it: {} | it,
    "|=": or_in_place,
    "|= into another": into_another,
    "%": lambda it: "%(user)s" % it,  # noqa: UP031
    "format_map": "{user}".format_map,
    "match": match_it,
    "hasattr": lambda it: hasattr(it, "user_id"),
    "vars": vars,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "a mapping's items": lambda it: dict(it.items()) if isinstance(it, Mapping) else {},
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("options", [{"lazy": True}, {"exempt": ["/use"]}], ids=["lazy", "exempt"])
def test_every_use_of_what_is_not_loaded_raises(use: Callable[[Any], object], options: dict[str, Any]) -> None:
    """An empty mapping there would say that nobody is logged in."""

    async def endpoint(request: Request) -> Response:
        with pytest.raises(SessionNotLoaded) as caught:
            use(request.scope["session"])
        assert len(str(caught.value).splitlines()) == 3
        with pytest.raises(SessionNotLoaded):
            _ = request.session
        return JSONResponse({})

    shared, _ = counted()
    with browser(app_over(shared, Route("/use", endpoint), **options)) as client:
        assert client.get("/use").status_code == 200


def test_json_refuses_what_is_not_loaded() -> None:
    """It knows dicts alone, and asks others nothing; what it says names what it met."""

    async def endpoint(request: Request) -> Response:
        with pytest.raises(TypeError, match="NotLoaded"):
            json.dumps(request.scope["session"])
        with pytest.raises(SessionNotLoaded):
            json.dumps(request.session)
        return JSONResponse({})

    shared, _ = counted()
    with browser(app_over(shared, Route("/use", endpoint), lazy=True)) as client:
        assert client.get("/use").status_code == 200


@pytest.mark.parametrize("assigned", [{}, {"user": "bob"}])
@pytest.mark.parametrize("options", [{"lazy": True}, {"exempt": ["/assign"]}], ids=["lazy", "exempt"])
def test_a_dict_assigned_to_what_is_not_loaded_is_refused(assigned: dict[str, str], options: dict[str, Any]) -> None:
    """THREATS 13: it can be no ending of, and no change to, what nobody has looked at; nor is it lost in silence."""

    async def assign(request: Request) -> Response:
        request.scope["session"] = dict(assigned)
        return JSONResponse({})

    shared, _ = counted()
    with browser(app_over(shared, Route("/assign", assign), *LOADS, **options)) as client:
        client.get("/put")
        with pytest.raises(SessionNotLoaded, match="assigned"):
            client.get("/assign")
        assert client.get("/see").json() == {"n": 1}


@pytest.mark.parametrize("why", [asyncio.CancelledError, RuntimeError])
async def test_a_dict_assigned_to_what_is_not_loaded_hides_no_other_error(why: type[BaseException]) -> None:
    async def assign_and_raise(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"] = {}
        raise why

    shared, _ = counted()
    said = await call(SessionMiddleware(assign_and_raise, shared=shared, lazy=True), scope_of("/", None))
    assert isinstance(said.error, why)


# --- loading ----------------------------------------------------------------------------------------------------------


def test_all_who_ask_at_once_get_the_same_session_for_one_trip() -> None:
    async def ask(request: Request) -> Response:
        sessions = await asyncio.gather(*(load_session(request) for _ in range(20)))
        sessions.append(await load_session(request))
        assert len({id(session) for session in sessions}) == 1
        assert request.scope["session"] is sessions[0]
        sessions[0]["asked"] = True
        return JSONResponse(request.session)

    store = CountingStore(MemoryStore())
    slow = FaultyStore(store)
    with browser(app_over(SharedState(slow, secret_key=SECRET), Route("/ask", ask), *LOADS, lazy=True)) as client:
        client.get("/put")
        store.reset()
        slow.delay(0.02, on=Read)  # so that the others ask while the first one waits
        assert client.get("/ask").json() == {"n": 1, "asked": True}
        assert (store.reads, store.writes) == (1, 1)


class PassesACopyOn:
    """A middleware that hands on a scope of its own, as many do."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app(dict(scope), receive, send)


def test_a_middleware_between_that_copies_the_scope_changes_nothing() -> None:
    """THREATS 7: whatever is noted in a scope is lost in its copy; what it holds is not."""
    shared, store = counted()
    outer = Middleware(SessionMiddleware, shared=shared, lazy=True)
    inner = Middleware(SessionMiddleware, shared=shared)  # the same cookie: it joins the outer one
    app = Starlette(routes=LOADS, middleware=[outer, Middleware(PassesACopyOn), inner, Middleware(PassesACopyOn)])
    with browser(app) as client:
        assert client.get("/put").json() == {"n": 1}
        store.reset()
        answer = client.get("/put")
        assert answer.json() == {"n": 2}
        assert (answer.headers["vary"], answer.headers["cache-control"]) == ("Cookie", "private")
        assert (store.reads, store.writes) == (1, 1)
        client.get("/end")
        assert "session" not in client.cookies


def test_a_websocket_loads_its_session_when_it_asks() -> None:
    async def chat(websocket: WebSocket) -> None:
        await websocket.accept()
        said = await websocket.receive_text()
        if said != "nothing":
            session = await load_session(websocket)
            session["said"] = said
        await websocket.close()

    shared, store = counted()
    app = app_over(shared, WebSocketRoute("/chat", chat), *LOADS, lazy=True)  # type: ignore[arg-type]
    with browser(app, base_url="http://testserver") as client:
        client.get("/put")
        for said, calls in (("nothing", 0), ("hello", 2)):
            store.reset()
            with client.websocket_connect("/chat") as socket:
                socket.send_text(said)
                socket.receive()
            assert store.calls == calls
        assert client.get("/see").json() == {"n": 1, "said": "hello"}


def test_in_fastapi_only_who_asks_loads_it_also_where_the_endpoint_is_no_coroutine() -> None:
    shared, store = counted()
    app = FastAPI()
    app.add_middleware(SessionMiddleware, shared=shared, lazy=True)

    @app.get("/put")
    def put(session: CurrentSession) -> dict[str, Any]:
        session["n"] = session.get("n", 0) + 1
        return session

    @app.get("/plain")
    def plain() -> str:
        return "plain"

    with TestClient(app, base_url="https://testserver") as client:
        assert [client.get("/put").json() for _ in range(2)] == [{"n": 1}, {"n": 2}]
        store.reset()
        assert "vary" not in client.get("/plain").headers
        assert store.calls == 0


# --- a load that fails ------------------------------------------------------------------------------------------------


def failing() -> tuple[SharedState, FaultyStore]:
    store = FaultyStore(MemoryStore())
    return SharedState(store, secret_key=SECRET), store


def test_a_load_that_fails_is_503_unless_the_app_catches_it() -> None:
    async def catch(request: Request) -> Response:
        try:
            await load_session(request)
        except StoreUnavailable:
            return JSONResponse({"caught": True})
        raise AssertionError

    shared, store = failing()
    with browser(app_over(shared, Route("/catch", catch), *LOADS, lazy=True)) as client:
        client.get("/put")
        store.fail(on=Read)
        refused = client.get("/put")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        caught = client.get("/catch")
        assert caught.json() == {"caught": True}
        assert caught.headers["cache-control"] == "no-store", "it may tell of a visitor that it did not know"
        assert client.get("/plain").status_code == 200
        store.heal()
        assert client.get("/see").json() == {"n": 1}


async def all_at_once(request: Request) -> None:
    await asyncio.gather(*(load_session(request) for _ in range(5)))


async def twice(request: Request) -> None:
    try:
        await load_session(request)
    except StoreError:
        await load_session(request)


@pytest.mark.parametrize("load", [all_at_once, twice])
def test_a_load_that_failed_has_failed_for_all_who_ask(load: Callable[[Request], Any]) -> None:
    """One answer for one request: a second try that came through would leave changes that nobody saves."""

    async def endpoint(request: Request) -> Response:
        await load(request)
        return JSONResponse({})

    shared, store = failing()
    with browser(app_over(shared, Route("/load", endpoint), *LOADS, lazy=True)) as client:
        client.get("/put")
        store.fail(on=Read, times=1)
        assert client.get("/load").status_code == 503
        assert store.injected.failed == 1
        store.heal()
        assert client.get("/load").status_code == 200


def test_a_load_that_was_cancelled_is_begun_again_by_the_next_who_asks() -> None:
    async def endpoint(request: Request) -> Response:
        first = asyncio.ensure_future(load_session(request))
        await asyncio.sleep(0.01)
        assert first.cancel(), "it is still waiting for the store"
        return JSONResponse(await load_session(request))

    shared, store = failing()
    with browser(app_over(shared, Route("/load", endpoint), *LOADS, lazy=True)) as client:
        client.get("/put")
        store.delay(0.9, on=Read, times=1)
        assert client.get("/load").json() == {"n": 1}
