"""Options of the middleware that say which requests have sessions, how large they may be, and who wins a conflict."""

import asyncio
import copy
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import quote, unquote

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from serverless_session import LambdaHandler, Session, SessionMiddleware, SharedState, load_session, sum_of_changes
from serverless_session.errors import (
    ServerlessSessionError,
    SessionConflict,
    SessionError,
    SessionNotLoaded,
    SessionTooLarge,
    StoreError,
)
from serverless_session.stores import ABSENT, Delete, MemoryStore, Missing, Write
from serverless_session.testing import CountingStore, FaultyStore, ManualClock
from tests.aws.events import Context, event_v2
from tests.servers import Server
from tests.sessions.apps import (
    ROUTES,
    SECRET,
    Action,
    Meanwhile,
    Meeting,
    app_over,
    browser,
    counted,
    doing,
    plain,
    tabs,
)

# --- exempt -----------------------------------------------------------------------------------------------------------

EXEMPT = ["/healthz", "/static/*", "/a b"]


def test_a_health_check_with_a_cookie_outlives_the_store() -> None:
    """THREATS 57."""
    store = FaultyStore(MemoryStore())
    app = app_over(SharedState(store, secret_key=SECRET), Route("/healthz", plain), exempt=EXEMPT)
    with browser(app) as client:
        client.post("/update", json={"user": "ann"})
        store.fail()
        assert client.get("/plain").status_code == 503
        response = client.get("/healthz")
        assert response.status_code == 200
        assert {"vary", "cache-control", "set-cookie"}.isdisjoint(response.headers)
        assert store.injected.failed == 1


async def loads(request: Request) -> Response:
    """Says whether this request has a session."""
    try:
        return JSONResponse({"session": dict(await load_session(request))})
    except SessionNotLoaded:
        return JSONResponse({"exempt": True})


EVERYTHING = Route("/{path:path}", loads, methods=["GET", "POST"])


def is_exempt(app: Any, path: str, *, root_path: str = "") -> bool:
    """What `app` answers to a path, as it is sent, on a server of this root path."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    raw, _, query = path.partition("?")
    scope = {"type": "http", "method": "GET", "scheme": "https", "headers": [], "query_string": query.encode()}
    scope |= {"path": unquote(raw), "raw_path": raw.encode(), "root_path": root_path}
    asyncio.run(app(scope, receive, send))
    return b"exempt" in sent[1]["body"]


@pytest.mark.parametrize(
    ("path", "exempt"),
    [
        ("/healthz", True),
        ("/healthz?deep=1", True),
        ("/healthz/", False),
        ("/healthz/x", False),
        ("/Healthz", False),
        ("/health%7A", False),
        ("/static/", True),
        ("/static/app.css", True),
        ("/static/a/b/../c", True),
        ("/static/x%2Fy", True),
        ("/static", False),
        ("/static%2Fx", False),
        ("/statics/x", False),
        ("//static/x", False),
        ("/x/static/x", False),
        ("/x?y=/static/x", False),
    ],
)
def test_exempt_paths_are_compared_as_they_are_sent(path: str, exempt: bool) -> None:
    shared, _ = counted()
    app = SessionMiddleware(EVERYTHING.app, shared=shared, exempt=EXEMPT)
    assert is_exempt(app, path) is exempt


@pytest.mark.parametrize("mount", ["/shop", "/a b"])
@pytest.mark.parametrize(
    ("path", "exempt"), [("/healthz", True), ("/static/x", True), ("/static%2Fx", False), ("/shop/healthz", False)]
)
def test_exempt_paths_are_those_below_the_mount(mount: str, path: str, exempt: bool) -> None:
    shared, _ = counted()
    inner = SessionMiddleware(Starlette(routes=[EVERYTHING]), shared=shared, exempt=EXEMPT)
    assert is_exempt(Starlette(routes=[Mount(mount, inner)]), quote(mount) + path) is exempt


@pytest.mark.parametrize(
    ("root", "path", "exempt"),
    [
        ("/shop", "/shop/healthz", True),
        ("/shop/", "/shop/healthz", True),
        ("/shop", "/healthz", True),  # a proxy that takes the root off
        ("/sho", "/shop/healthz", False),
        ("/shop", "/shop/shop/healthz", False),
        ("/shop/healthz", "/shop/healthz", False),
    ],
)
def test_exempt_paths_are_those_below_the_root_path_of_a_server(root: str, path: str, exempt: bool) -> None:
    shared, _ = counted()
    app = SessionMiddleware(EVERYTHING.app, shared=shared, exempt=EXEMPT)
    assert is_exempt(app, path, root_path=root) is exempt


def test_exempt_paths_where_no_undecoded_path_is_given() -> None:
    """Mangum knows a decoded one alone (`raw_path=None`)."""
    shared, store = counted()
    handler = LambdaHandler(Starlette(routes=[EVERYTHING], middleware=[_middleware(shared)]))
    try:
        cookie = _cookie(shared)
        store.reset()
        for path, exempt in (("/healthz", True), ("/static/a b", True), ("/other", False)):
            answer = handler(event_v2(path=path, query="q=/static/", cookies=(cookie,)), Context())
            assert ("exempt" in json.loads(answer["body"])) is exempt
        assert store.calls == 1
    finally:
        handler.close()


def _middleware(shared: SharedState) -> Middleware:
    return Middleware(SessionMiddleware, shared=shared, exempt=EXEMPT)


def _cookie(shared: SharedState) -> str:
    with browser(app_over(shared)) as client:
        return f"session={client.post('/update', json={'user': 'ann'}).cookies['session']}"


# --- max_session_bytes ------------------------------------------------------------------------------------------------


def filled(size: int) -> dict[str, str]:
    return {"text": "x" * size}


@pytest.fixture
def small() -> SharedState:
    """Over a store in memory, with a clock that stands still: its digits count too."""
    clock = ManualClock(1_000_000.0)
    return SharedState(CountingStore(MemoryStore(clock=clock)), secret_key=SECRET, clock=clock)


def size_of(data: dict[str, Any]) -> int:
    """How large a session with these contents is, as an error says."""
    shared = SharedState("memory://", secret_key=SECRET, clock=ManualClock(1_000_000.0))
    with browser(app_over(shared, max_session_bytes=1)) as client, pytest.raises(SessionTooLarge) as caught:
        client.post("/update", json=data)
    assert caught.value.limit_bytes == 1
    return caught.value.size_bytes


def refused(app: Starlette, client: TestClient, **request: Any) -> bool:
    """Is it a 500 without a cookie?"""
    with TestClient(app, base_url="https://testserver", raise_server_exceptions=False, cookies=client.cookies) as other:
        answer = other.request("POST", **request)
    assert answer.status_code in (200, 500)
    assert answer.status_code == 200 or "set-cookie" not in answer.headers
    return answer.status_code == 500


def test_one_byte_above_the_limit_is_500_and_the_stored_session_stands(
    small: SharedState, caplog: pytest.LogCaptureFixture
) -> None:
    """THREATS 51."""
    limit = size_of(filled(1000))
    app = app_over(small, max_session_bytes=limit)
    with browser(app) as client:
        assert refused(app, client, url="/update", json=filled(1001)), "a new one"
        assert client.post("/update", json=filled(1000)).status_code == 200
        caplog.clear()
        assert refused(app, client, url="/update", json=filled(1001))
        (told,) = [record for record in caplog.records if getattr(record, "event", "") == "session.too_large"]
        assert (told.__dict__["size_bytes"], told.__dict__["limit_bytes"]) == (limit + 1, limit)
        assert told.levelno == logging.ERROR
        assert client.get("/view").json() == filled(1000)
        with pytest.raises(SessionTooLarge, match="max_session_bytes="):
            client.post("/update", json=filled(1001))


def test_one_that_is_too_large_already_may_become_smaller(small: SharedState) -> None:
    with browser(app_over(small)) as client:
        client.post("/update", json=filled(1000))
        cookies = client.cookies
    app = app_over(small, max_session_bytes=size_of(filled(500)))
    with browser(app) as client:
        client.cookies = cookies
        for size, too_large in ((1001, True), (1000, False), (900, False), (901, True), (400, False), (501, True)):
            assert refused(app, client, url="/update", json=filled(size)) is too_large, size
        assert client.get("/view").json() == filled(400)


@pytest.mark.parametrize("action", [Session.regenerate, lambda session: session.login("ann")])
def test_a_new_id_is_not_for_what_is_too_large(small: SharedState, action: Callable[[Session], None]) -> None:
    def grow(session: Session) -> None:
        session.update(filled(1000))
        action(session)

    app = app_over(small, doing("/grow", grow), max_session_bytes=1000)
    store = small.store
    assert isinstance(store, CountingStore)
    with browser(app) as client:
        client.post("/update", json={"a": 1})
        before = dict(client.cookies)
        store.reset()
        assert refused(app, client, url="/grow")
        assert (store.writes, store.deletes) == (0, 0)
        assert dict(client.cookies) == before
        assert client.get("/view").json() == {"a": 1}


async def test_what_two_requests_make_of_a_session_may_be_too_large_for_the_second() -> None:
    shared, _ = counted()
    meeting = Meeting(lambda session: session.update(a="x" * 600), lambda session: session.update(b="x" * 600))
    app = app_over(shared, meeting.route, max_session_bytes=1000)
    async with tabs(app, raise_app_exceptions=False) as client:
        await client.post("/update", json={"user": "ann"})
        answers = await meeting.of(client)
        assert sorted(answer.status_code for answer in answers) == [200, 500]
        assert all("set-cookie" not in answer.headers for answer in answers)
        kept = "ab"[answers[0].status_code != 200]
        assert (await client.get("/view")).json() == {"user": "ann", kept: "x" * 600}


@pytest.mark.parametrize("action", [Session.regenerate, lambda session: session.login("ann")])
async def test_a_new_id_is_taken_back_where_another_request_has_made_it_too_large(
    action: Callable[[Session], None],
) -> None:
    def grow(session: Session) -> None:
        session["a"] = "x" * 600
        action(session)

    inner = CountingStore(MemoryStore())
    store = Meanwhile(inner)
    apps = [app_over(SharedState(store, secret_key=SECRET), doing("/grow", grow), max_session_bytes=1000) for _ in "ab"]
    async with tabs(apps[0], raise_app_exceptions=False) as one, tabs(apps[1]) as two:
        cookie = {"cookie": f"session={(await one.post('/update', json={'n': 1})).cookies['session']}"}
        inner.reset()
        store.happens = lambda: two.post("/update", json={"b": "x" * 600}, headers=cookie)
        store.meets = lambda operation: isinstance(operation, Write) and operation.expect is ABSENT
        answer = await one.post("/grow", headers=cookie)
        assert answer.status_code == 500
        assert "set-cookie" not in answer.headers
        (begun,) = [write for write in inner.operations if isinstance(write, Write) and write.expect is ABSENT]
        assert await inner.read(begun.key) == Missing()
        assert isinstance(inner.operations[-2], Delete), "and after it our own look"
        assert (await one.get("/view", headers=cookie)).json() == {"n": 1, "b": "x" * 600}


# --- conflicts --------------------------------------------------------------------------------------------------------


def putting(key: str, value: object) -> Action:
    return lambda session: session.__setitem__(key, value)


async def test_a_conflict_that_may_not_be_won_is_409_and_nothing_of_it_is_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shared, _ = counted()
    meeting = Meeting(lambda session: session.update(n=1, mine=0), lambda session: session.update(n=2, mine=1))
    async with tabs(app_over(shared, meeting.route, on_conflict="error")) as client:
        await client.post("/update", json={"n": 0})
        answers = await meeting.of(client)
        kept, lost = sorted(answers, key=lambda answer: answer.status_code)
        assert (kept.status_code, lost.status_code) == (200, 409)
        assert lost.headers["content-type"] == "application/problem+json"
        assert lost.headers["cache-control"] == "no-store"
        assert "set-cookie" not in lost.headers
        assert lost.json()["status"] == 409
        winner = answers.index(kept)
        assert (await client.get("/view")).json() == {"n": winner + 1, "mine": winner}
        (told,) = [record for record in caplog.records if hasattr(record, "event")]
        assert (told.__dict__["event"], told.__dict__["places"]) == ("session.conflict_refused", 2)


async def test_where_conflicts_are_refused_what_does_not_conflict_is_merged() -> None:
    shared, _ = counted()
    meeting = Meeting(*(putting(key, 1) for key in "abc"), lambda session: session["cart"].append("apple"))
    async with tabs(app_over(shared, meeting.route, on_conflict="error")) as client:
        await client.post("/update", json={"n": 0, "cart": []})
        assert {answer.status_code for answer in await meeting.of(client)} == {200}
        assert (await client.get("/view")).json() == {"n": 0, "a": 1, "b": 1, "c": 1, "cart": ["apple"]}


@pytest.mark.parametrize("how", ["save", "reload"])
async def test_a_conflict_that_an_app_meets_itself_and_lets_through_is_409_too(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    here, there = (SharedState(store, secret_key=SECRET) for _ in "ab")

    async def endpoint(request: Request) -> Response:
        session = await load_session(request)
        await other.post("/update", json={"n": 2}, headers={"cookie": request.headers["cookie"]})
        session["n"] = 1
        await (session.save() if how == "save" else session.reload())
        raise AssertionError

    app = app_over(here, Route("/meet", endpoint), on_conflict="error")
    async with tabs(app) as client, tabs(app_over(there)) as other:
        await client.post("/update", json={"n": 0})
        assert (await client.get("/meet")).status_code == 409
        assert (await client.get("/view")).json() == {"n": 2}
    assert "session.conflict_refused" in caplog.text


async def test_a_conflict_in_a_stream_breaks_the_answer_off() -> None:
    store = MemoryStore()
    here, there = (SharedState(store, secret_key=SECRET) for _ in "ab")

    async def endpoint(request: Request) -> Response:
        session = request.session

        async def body() -> Any:
            yield "one"
            await other.post("/update", json={"n": 2}, headers={"cookie": request.headers["cookie"]})
            session["n"] = 1
            yield "two"

        return StreamingResponse(body())

    app = app_over(here, Route("/stream", endpoint), on_conflict="error")
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return await asyncio.Event().wait()

    async with tabs(app) as client, tabs(app_over(there)) as other:
        cookie = (await client.post("/update", json={"n": 0})).cookies["session"]
        headers = [(b"cookie", f"session={cookie}".encode())]
        scope = {"type": "http", "method": "GET", "scheme": "https", "path": "/stream", "query_string": b""}
        with pytest.raises(SessionConflict):
            await app(scope | {"headers": headers}, receive, send)
        assert [message.get("body") for message in sent] == [None, b"one", b"two"]
        assert all(message["more_body"] for message in sent[1:]), "it is never finished"
        assert (await client.get("/view")).json() == {"n": 2}


async def test_a_key_with_a_strategy_is_what_that_says() -> None:
    def longest(base: Any, mine: Any, theirs: Any) -> Any:
        return max(mine, theirs, key=len)

    shared, _ = counted()
    meeting = Meeting(
        lambda session: session.update(visits=session["visits"] + 2, name="ann", new=1),
        lambda session: session.update(visits=session["visits"] + 3, name="annabel", new=1),
    )
    strategies = {"visits": sum_of_changes, "new": sum_of_changes, "name": longest}
    async with tabs(app_over(shared, meeting.route, merge=strategies, on_conflict="error")) as client:
        await client.post("/update", json={"visits": 10, "name": "a"})
        assert {answer.status_code for answer in await meeting.of(client)} == {200}
        assert (await client.get("/view")).json() == {"visits": 15, "name": "annabel", "new": 2}


async def test_a_strategy_that_raises_is_500_and_the_stored_session_stands() -> None:
    def broken(base: Any, mine: Any, theirs: Any) -> Any:
        raise ZeroDivisionError

    shared, _ = counted()
    meeting = Meeting(putting("n", 1), putting("n", 2))
    async with tabs(app_over(shared, meeting.route, merge={"n": broken}), raise_app_exceptions=False) as client:
        await client.post("/update", json={"n": 0})
        answers = await meeting.of(client)
        assert sorted(answer.status_code for answer in answers) == [200, 500]
        kept = answers.index(next(answer for answer in answers if answer.status_code == 200))
        assert (await client.get("/view")).json() == {"n": kept + 1}


async def test_keys_that_belong_together_come_from_one_request() -> None:
    """THREATS 16: a role that was computed for one tenant never stands beside another."""
    shared, _ = counted()
    meeting = Meeting(
        lambda session: session.update(tenant=1, role="admin", a=1),
        lambda session: session.update(tenant=2, team="blue", b=1),
    )
    async with tabs(app_over(shared, meeting.route, together=[("tenant", "role", "team")])) as client:
        await client.post("/update", json={"tenant": 0, "role": "guest", "team": None})
        assert {answer.status_code for answer in await meeting.of(client)} == {200}
        found = (await client.get("/view")).json()
        assert (found["tenant"], found["role"], found["team"]) in ((1, "admin", None), (2, "guest", "blue"))
        assert (found["a"], found["b"]) == (1, 1)


# --- session.change ---------------------------------------------------------------------------------------------------


@pytest.fixture
def copies(valkey: Server) -> list[SharedState]:
    """Two copies of an app on one server: what one of them saves is news to the other."""
    return [SharedState(valkey.url, secret_key=SECRET) for _ in "ab"]


def add(amount: int) -> Callable[[Any], int]:
    return lambda value: (value or 0) + amount


def all_of(*steps: Callable[[Session], Any]) -> Action:
    async def action(session: Session) -> None:
        for step in steps:
            if isinstance(done := step(session), Awaitable):
                await done

    return action


def change(key: str, fn: Callable[[Any], Any]) -> Callable[[Session], Any]:
    return lambda session: session.change(key, fn)


async def after(copies: list[SharedState], start: dict[str, Any], *actions: Action, **options: Any) -> dict[str, Any]:
    """What is in a session that begins with `start` after requests to both copies have met."""
    meeting = Meeting(*actions)
    apps = [app_over(shared, meeting.route, **options) for shared in copies]
    async with tabs(apps[0]) as one, tabs(apps[1]) as two:
        await one.post("/update", json=start)
        two.cookies = one.cookies
        assert {answer.status_code for answer in await meeting.of(one, two)} == {200}
        found: dict[str, Any] = (await one.get("/view")).json()
    for shared in copies:
        await shared.aclose()
    return found


async def test_fifty_at_once_count_to_fifty(copies: list[SharedState]) -> None:
    actions = [all_of(change("n", add(1)), putting(f"k{place}", place)) for place in range(50)]
    found = await after(copies, {"n": 0}, *actions)
    assert found == {"n": 50, **{f"k{place}": place for place in range(50)}}


async def test_a_key_that_was_not_there_begins_with_none(copies: list[SharedState]) -> None:
    assert await after(copies, {"a": 1}, *[change("n", add(1)) for _ in range(4)]) == {"a": 1, "n": 4}


async def test_two_changes_of_one_key_both_count(copies: list[SharedState]) -> None:
    twice = all_of(change("n", add(1)), change("n", lambda n: n + 10))
    assert await after(copies, {"n": 0}, twice, twice, twice) == {"n": 33}


async def test_what_is_assigned_after_a_change_is_no_change_any_more(copies: list[SharedState]) -> None:
    found = await after(copies, {"n": 0}, *[all_of(change("n", add(1)), putting("n", 100)) for _ in range(3)])
    assert found == {"n": 100}


async def test_a_change_after_an_assignment_begins_with_that_and_counts_on(copies: list[SharedState]) -> None:
    found = await after(copies, {"n": 0}, all_of(putting("n", 100), change("n", add(1))), change("n", add(1)))
    assert found["n"] in (2, 102), "in the order in which they were saved: both ran on what the other had left, or one"


async def test_a_key_that_another_request_has_deleted_stays_deleted(copies: list[SharedState]) -> None:
    def delete(session: Session) -> None:
        del session["n"]

    assert await after(copies, {"n": 5, "a": 1}, change("n", add(1)), delete, change("n", add(1))) == {"a": 1}


async def test_what_a_change_nests_is_its_own(copies: list[SharedState]) -> None:
    """A function may return what it was given: what another request has made of it is not what it was given."""

    def restock(stock: dict[str, int]) -> dict[str, int]:
        stock["apples"] -= 1
        return stock

    assert await after(copies, {"stock": {"apples": 9}}, *[change("stock", restock) for _ in range(6)]) == {
        "stock": {"apples": 3}
    }


async def test_a_change_outweighs_a_conflict_that_is_refused(copies: list[SharedState]) -> None:
    assert await after(copies, {"n": 0}, *[change("n", add(1)) for _ in range(4)], on_conflict="error") == {"n": 4}


async def test_a_change_goes_along_with_a_new_id(copies: list[SharedState]) -> None:
    """The record under the new id holds what both have made of the counter, whichever of them came first."""
    meeting = Meeting(all_of(change("n", add(1)), Session.regenerate), change("n", add(10)))
    async with tabs(app_over(copies[0], meeting.route)) as one, tabs(app_over(copies[1], meeting.route)) as two:
        await one.post("/update", json={"n": 0})
        two.cookies.update(one.cookies)
        await meeting.of(one, two)
        found = (await one.get("/view")).json()["n"]
        assert found in (1, 11), "11 unless the new id came first: then the other change met a stone, and was dropped"
    for shared in copies:
        await shared.aclose()


async def test_what_a_change_raises_when_it_runs_again_is_raised_and_nothing_is_saved() -> None:
    class SoldOut(Exception):
        pass

    def take(stock: int) -> int:
        if stock == 0:
            raise SoldOut
        return stock - 1

    shared, _ = counted()
    takers = [all_of(putting(f"bought{place}", True), change("stock", take)) for place in range(3)]
    meeting = Meeting(*takers)
    async with tabs(app_over(shared, meeting.route), raise_app_exceptions=False) as client:
        await client.post("/update", json={"stock": 2})
        answers = await meeting.of(client)
        assert sorted(answer.status_code for answer in answers) == [200, 200, 500]
        bought = {f"bought{place}" for place, answer in enumerate(answers) if answer.status_code == 200}
        found = (await client.get("/view")).json()
        assert found.pop("stock") == 0
        assert found.keys() == bought


async def test_a_change_answers_what_its_function_made_of_what_the_request_sees() -> None:
    seen: list[Any] = []

    async def look(session: Session) -> None:
        seen.append(await session.change("n", add(1)))
        seen.append(await session.change("n", add(1)))
        seen.append(session["n"])
        with pytest.raises(AttributeError):
            await session.change("cart", lambda cart: cart.append("apple") or cart.half_done())
        seen.append(session["cart"])

    shared, _ = counted()
    with browser(app_over(shared, doing("/look", look))) as client:
        client.post("/update", json={"cart": []})
        assert client.get("/look").json() == {"n": 2, "cart": []}
    assert seen == [1, 2, 2, []]


async def test_a_change_by_an_async_function_is_refused_and_nothing_has_happened() -> None:
    async def count(visits: int | None) -> int:
        return (visits or 0) + 1

    session = Session({"visits": 1})
    with pytest.raises(TypeError, match="async"):
        await session.change("visits", count)
    assert session == {"visits": 1}
    assert not session.modified


async def test_a_change_that_returns_nothing_is_refused() -> None:
    session = Session({"cart": ["tea"]})
    with pytest.raises(TypeError, match="returned None"):
        await session.change("cart", lambda cart: cart.append("mug"))
    assert session == {"cart": ["tea"]}


async def answers_of_buyers(shared: SharedState, buyers: int, stock: int) -> tuple[list[int], Any]:
    """What each was told is left, -1 where there was none; and what is left in the end."""

    class SoldOut(Exception):
        pass

    def take(left: int) -> int:
        if left == 0:
            raise SoldOut
        return left - 1

    together = asyncio.Barrier(buyers)

    async def buy(request: Request) -> Response:
        session = await load_session(request)
        await together.wait()
        await session.change("stock", take)
        try:
            await session.save()
        except SoldOut:
            return JSONResponse(-1, 409)
        return JSONResponse(session["stock"])

    async with tabs(app_over(shared, Route("/buy", buy, methods=["POST"]))) as client:
        await client.post("/update", json={"stock": stock})
        told = await asyncio.gather(*(client.post("/buy") for _ in range(buyers)))
        return [answer.json() for answer in told], (await client.get("/view")).json()


async def test_after_a_save_a_change_is_known_for_good_and_may_have_been_refused() -> None:
    shared, _ = counted()
    told, left = await answers_of_buyers(shared, buyers=15, stock=10)
    assert sorted(told) == [-1] * 5 + list(range(10)), "each was told another number, and who got none was told so"
    assert left == {"stock": 0}


# --- what the app sees after a save -----------------------------------------------------------------------------------


async def test_what_another_request_has_written_is_in_the_session_after_a_save() -> None:
    """Else what is computed from it next would overwrite the other's."""
    shared, _ = counted()
    seen: list[Any] = []

    async def add_twice(session: Session) -> None:
        cart, address = session["cart"], session["address"]
        await other.post("/update", json={"points": 100, "cart": ["tea", "honey"], "address": {"street": "A", "no": 1}})
        cart.append("mug")
        await session.save()
        seen.append(copy.deepcopy(dict(session)))
        session["points"] += 10
        cart.append("bread")  # the app may go on with what it has had in hand
        address["city"] = "X"

    app = app_over(shared, doing("/add", add_twice))
    async with tabs(app) as one, tabs(app_over(SharedState(shared.store, secret_key=SECRET))) as other:
        await one.post("/update", json={"points": 0, "cart": ["tea"], "address": {"street": "A"}})
        other.cookies.update(one.cookies)
        await one.get("/add")
        found = (await one.get("/view")).json()
    assert seen[0]["points"] == 100
    assert seen[0]["cart"] == ["tea", "honey", "mug"]
    assert found == {
        "points": 110,
        "cart": ["tea", "honey", "mug", "bread"],
        "address": {"street": "A", "no": 1, "city": "X"},
    }


async def test_what_is_written_while_a_save_is_on_its_way_stays() -> None:
    shared, store = counted()
    waiting = Meanwhile(store)
    waiting.meets = lambda operation: False

    async def write_meanwhile(session: Session) -> None:
        async def write() -> None:
            session["late"] = 1

        session["a"] = 1
        await other.post("/update", json={"b": 1})
        waiting.happens, waiting.meets = write, lambda operation: isinstance(operation, Write)
        await session.save()
        assert session == {"start": 1, "a": 1, "b": 1, "late": 1}

    app = app_over(SharedState(waiting, secret_key=SECRET), doing("/write", write_meanwhile))
    async with tabs(app) as one, tabs(app_over(shared)) as other:
        await one.post("/update", json={"start": 1})
        other.cookies.update(one.cookies)
        await one.get("/write")
        assert (await one.get("/view")).json() == {"start": 1, "a": 1, "b": 1, "late": 1}


def test_a_login_after_the_start_is_refused_where_it_is_called() -> None:
    """And leaves who is logged in as they are."""
    refused: list[str] = []

    async def stream(request: Request) -> Response:
        session = await load_session(request)

        async def chunks() -> AsyncIterator[str]:
            yield "a"
            with pytest.raises(SessionError, match="session-too-late"):
                session.login("bob")
            with pytest.raises(SessionError, match="session-too-late"):
                session.regenerate()
            refused.append(str(session.user_id))
            session["seen"] = True

        return StreamingResponse(chunks())

    shared, _ = counted()
    with browser(
        app_over(shared, doing("/in", lambda session: session.login("root")), Route("/stream", stream))
    ) as tab:
        tab.get("/in")
        assert tab.get("/stream").text == "a"
        assert tab.get("/view").json() == {"seen": True}
    assert refused == ["root"]


@pytest.mark.parametrize("handled", [StoreError, ServerlessSessionError, Exception])
def test_what_a_save_raises_leaves_as_it_is_though_the_app_has_a_handler_for_it(handled: type[Exception]) -> None:
    """Starlette calls no handler once the response has begun, and makes a RuntimeError of what it is for."""

    async def answer(request: Request, error: Exception) -> Response:
        return PlainTextResponse("never", 500)

    faulty = FaultyStore(MemoryStore())
    broken = SharedState(faulty, secret_key=SECRET)
    inner = Starlette(routes=ROUTES, exception_handlers={handled: answer})
    app = SessionMiddleware(inner, shared=broken, on_store_failure="raise")
    with TestClient(app, base_url="https://testserver") as client:
        client.post("/update", json={"a": 1})
        faulty.fail(on=Write)
        with pytest.raises(StoreError):
            client.post("/update", json={"a": 2})
