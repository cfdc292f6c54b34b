"""How long sessions live, by a clock that tests move; docs/reference/lifetimes.md shows the same table."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Sequence
from http.cookies import SimpleCookie
from typing import Any

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from serverless_session import SharedState, load_session
from serverless_session.sessions.lifecycle import CookieChange, Rules, Visit
from serverless_session.sessions.lifetime import Lifetime
from serverless_session.stores import MemoryStore, Operation, Outcome, Store, Write
from serverless_session.testing import CountingStore, FaultyStore, ManualClock
from tests.docs.pages import ROOT
from tests.sessions import lifetimes, scenarios
from tests.sessions.apps import SECRET, app_over
from tests.sessions.interleaving import App, World
from tests.sessions.lifetimes import COVERS, DAY, HOUR, MINUTE, ROWS, Row, Use

AGAIN = 60
"""Uses of one session: where it lives longer than that many, it is asked no further."""


async def log_in(request: Request) -> Response:
    session = await load_session(request)
    session.login("ann", **await request.json())
    return JSONResponse(session)


async def log_out_key_by_key(request: Request) -> Response:
    for key in list(request.session):
        del request.session[key]
    return JSONResponse({})


async def stream(request: Request) -> Response:
    async def body() -> AsyncIterator[str]:
        yield "one"
        request.session["late"] = 1
        yield "two"

    return StreamingResponse(body())


ROUTES = [
    Route("/login", log_in, methods=["POST"]),
    Route("/empty", log_out_key_by_key, methods=["POST"]),
    Route("/stream", stream),
]


class Visitor:
    """A browser that keeps its session's cookie whatever its Max-Age says, so that what ends is the session itself."""

    def __init__(self, around: Callable[[MemoryStore], Store] = lambda store: store, **options: Any) -> None:
        self.clock = ManualClock(1_000_000.0)
        self.store = around(MemoryStore(clock=self.clock))
        self.shared = SharedState(self.store, secret_key=SECRET, clock=self.clock)
        self.app = app_over(self.shared, *ROUTES, **options)
        self._client = TestClient(self.app, base_url="https://testserver")
        self.cookie: str | None = None
        self.cookies: list[float | None] = []
        """The Max-Age of each session cookie that came; None: it had none."""

    def send(self, method: str, path: str, json: Any = None) -> Any:
        headers = {} if self.cookie is None else {"cookie": f"session={self.cookie}"}
        self._client.cookies.clear()
        response = self._client.request(method, path, json=json, headers=headers)
        assert response.status_code == 200
        for header in response.headers.get_list("set-cookie"):
            value = SimpleCookie(header)["session"].value
            self.cookie = None if value == "null" else value
            if self.cookie is not None:
                age = re.search(r"; Max-Age=(-?\d+);", header)
                self.cookies.append(None if age is None else float(age[1]))
        return response

    def use(self, use: Use, remembered: float | None = None) -> None:
        if use == "read":
            self.send("GET", "/view")
        elif use == "change":
            self.send("POST", "/update", {"at": self.clock.time()})
        else:
            self.send("POST", "/login", {} if remembered is None else {"max_age": remembered})

    def lives(self) -> bool:
        return bool(self.send("GET", "/view").json())


def begun(row: Row) -> Visitor:
    """A visitor whose session has just begun as the row says."""
    visitor = Visitor(**row.options)
    if row.remembered is not None:
        visitor.use("login", row.remembered)
    visitor.use("change")
    assert visitor.cookies == [row.cookie_age]
    return visitor


def lives_at(row: Row, use: Use | None, time: float) -> bool:
    """Is it there so long after it began, if it is used so until then, and often?"""
    visitor, step = begun(row), min(seconds for seconds, _ in row.clocks) / 2
    passed = 0.0
    while use is not None and passed + step < time - 1:
        passed += step
        visitor.clock.advance(step)
        visitor.use(use, row.remembered)
    visitor.clock.advance(time - passed)
    return visitor.lives()


@pytest.mark.parametrize("use", [None, "read", "change", "login"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name or "defaults")
def test_it_ends_when_its_row_says(row: Row, use: Use | None) -> None:
    ends, longest = row.end_of(use), AGAIN * min(seconds for seconds, _ in row.clocks) / 2
    if ends is None or ends > longest:
        assert lives_at(row, use, longest)
    else:
        assert lives_at(row, use, ends - 1)
        assert not lives_at(row, use, ends + 1)


@pytest.mark.parametrize("use", ["read", "change"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name or "defaults")
def test_a_cookie_is_sent_again_when_its_row_says(row: Row, use: Use) -> None:
    visitor, step = begun(row), min(seconds for seconds, _ in row.clocks) / 2
    due = None if row.kept is None or row.cookie_by is None else row.kept / 10
    if due is not None:
        step = min(step, 0.4 * due)
    passed = sent_at = 0.0
    for _ in range(AGAIN if due is None else round(1.2 * due / step)):
        if (ends := row.end_of(use)) is not None and passed + step >= ends:
            break
        passed += step
        visitor.clock.advance(step)
        visitor.cookies.clear()
        visitor.use(use)
        if due is not None and row.cookie_by is not None and use in COVERS[row.cookie_by] and passed - sent_at > due:
            assert visitor.cookies == [row.cookie_age_at(passed)]
            sent_at = passed
        else:
            assert visitor.cookies == []
    assert due is None or (sent_at > 0.0) is (use in COVERS[row.cookie_by or "login"])


def test_the_documentation_shows_this_table() -> None:
    assert lifetimes.table() in (ROOT / "docs/reference/lifetimes.md").read_text()


# --- corners ----------------------------------------------------------------------------------------------------------


def test_with_max_age_0_nothing_is_kept() -> None:
    visitor = Visitor(CountingStore, max_age=0)
    visitor.use("change")
    assert visitor.cookies == [0]
    assert not visitor.lives()
    assert isinstance(visitor.store, CountingStore)
    assert visitor.store.calls == 0


def test_with_max_age_0_a_save_within_the_request_takes_nothing_from_it() -> None:
    async def save_and_go_on(request: Request) -> Response:
        session = await load_session(request)
        session["a"] = 1
        return JSONResponse([await session.save(), session])

    visitor = Visitor(max_age=0)
    with TestClient(app_over(visitor.shared, Route("/save", save_and_go_on), max_age=0)) as client:
        answer = client.get("/save")
    assert answer.json() == [True, {"a": 1}]
    assert "; Max-Age=0;" in answer.headers["set-cookie"]


def test_a_login_starts_the_absolute_time_out_anew() -> None:
    visitor = Visitor(absolute_timeout=HOUR)
    visitor.use("change")
    visitor.clock.advance(50 * MINUTE)
    visitor.use("login")
    assert visitor.cookies == [HOUR, HOUR]
    visitor.clock.advance(50 * MINUTE)
    assert visitor.lives()
    visitor.clock.advance(11 * MINUTE)
    assert not visitor.lives()


def test_a_new_id_does_not_start_the_absolute_time_out_anew() -> None:
    visitor = Visitor(absolute_timeout=HOUR)
    visitor.use("change")
    visitor.clock.advance(50 * MINUTE)
    visitor.send("POST", "/regenerate")
    assert visitor.cookies == [HOUR, 10 * MINUTE]
    visitor.clock.advance(11 * MINUTE)
    assert not visitor.lives()


@pytest.mark.parametrize(
    ("app", "late"),
    [
        pytest.param(scenarios.look, False, id="a use"),
        pytest.param(scenarios.look, True, id="a late use"),
        pytest.param(scenarios.A, False, id="a change"),
        pytest.param(scenarios.A, True, id="a late change"),
        pytest.param(scenarios.regenerate, False, id="a new id"),
    ],
)
def test_a_request_that_outlives_the_absolute_time_out_keeps_nothing(app: App, late: bool) -> None:
    """And it is no error: a socket, or a stream, may be open for longer than its session lives."""
    rules = Rules(lifetime=Lifetime(max_age=None, idle_timeout=30 * MINUTE, absolute_timeout=HOUR))
    world = World(rules=rules)
    world.alone(scenarios.put("user", "ann"))
    world.clock.advance(20 * MINUTE)
    visit = Visit(world.records, world.ids.new, rules)
    world.run(visit.load(world.jar, now=world.clock.time()))
    world.clock.advance(HOUR)
    app(visit.session)
    assert world.run(visit.save(now=world.clock.time(), late=late)) is CookieChange.KEEP
    assert world.content(world.jar) == {}


def test_a_login_without_max_age_is_remembered_no_longer() -> None:
    visitor = Visitor(max_age=HOUR)
    visitor.use("login", 30 * DAY)
    visitor.use("login")
    assert visitor.cookies == [30 * DAY, HOUR]
    visitor.clock.advance(HOUR + 1)
    assert not visitor.lives()


def test_remember_me_is_ended_by_the_idle_time_out() -> None:
    visitor = Visitor(idle_timeout=30 * MINUTE)
    visitor.use("login", 30 * DAY)
    assert visitor.cookies == [30 * DAY]
    visitor.clock.advance(31 * MINUTE)
    assert visitor.send("GET", "/view").json() == {}


def test_a_read_prolongs_an_idle_session_and_sends_no_cookie() -> None:
    visitor = Visitor(idle_timeout=30 * MINUTE)
    visitor.use("change")
    for _ in range(4):
        visitor.clock.advance(20 * MINUTE)
        assert visitor.lives()
    assert len(visitor.cookies) == 1


def test_a_use_before_a_tenth_is_gone_is_not_written() -> None:
    """So an idle session ends up to a tenth of the time-out earlier, counted from its very last use."""
    visitor = Visitor(CountingStore, idle_timeout=30 * MINUTE)
    visitor.use("change")
    assert isinstance(visitor.store, CountingStore)
    visitor.store.reset()
    visitor.clock.advance(2.9 * MINUTE)
    visitor.use("read")
    assert visitor.store.calls == 1
    visitor.clock.advance(27.2 * MINUTE)
    assert not visitor.lives()


def test_emptied_key_by_key_the_cookie_goes_and_the_record_stays_for_a_minute() -> None:
    visitor = Visitor()
    visitor.use("change")
    cookie = visitor.cookie
    visitor.send("POST", "/empty")
    assert visitor.cookie is None
    visitor.cookie = cookie
    visitor.clock.advance(59)
    visitor.use("change")
    assert visitor.cookie == cookie, "a request that was on its way still finds it"
    visitor.send("POST", "/empty")
    visitor.cookie = cookie
    visitor.clock.advance(61)
    visitor.use("change")
    assert visitor.cookie != cookie, "now it is an id of nobody"


def test_emptied_key_by_key_a_session_with_a_user_stays() -> None:
    visitor = Visitor()
    visitor.use("login")
    visitor.use("change")
    visitor.send("POST", "/empty")
    assert visitor.cookie is not None
    visitor.clock.advance(DAY)
    visitor.use("change")
    assert len(visitor.cookies) == 1, "the same session: no new id"


def test_a_change_after_the_response_has_started_prolongs_no_cookie() -> None:
    visitor = Visitor(max_age=HOUR)
    visitor.use("change")
    visitor.clock.advance(30 * MINUTE)
    visitor.send("GET", "/stream")
    visitor.clock.advance(31 * MINUTE)
    assert not visitor.lives(), "the browser has dropped the cookie, and the session ends with it"


def test_a_change_after_the_response_has_started_prolongs_an_idle_session() -> None:
    visitor = Visitor(max_age=None, idle_timeout=HOUR)
    visitor.use("change")
    visitor.clock.advance(30 * MINUTE)
    visitor.send("GET", "/stream")
    visitor.clock.advance(31 * MINUTE)
    assert visitor.lives()


def test_a_renewal_that_fails_costs_nothing_but_itself(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "serverless_session")
    visitor = Visitor(FaultyStore, idle_timeout=30 * MINUTE)
    visitor.use("change")
    assert isinstance(visitor.store, FaultyStore)
    visitor.store.fail(on=Write)
    visitor.clock.advance(20 * MINUTE)
    assert visitor.lives()
    assert [record.event for record in caplog.records] == ["session.renewal_failed"]  # type: ignore[attr-defined]
    visitor.clock.advance(11 * MINUTE)
    assert not visitor.lives(), "it ends when it was to end before"


class ManyTurns(MemoryStore):
    """Its writes wait for some turns of the loop, as those of a store over a network do."""

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        for _ in range(50 * isinstance(operations[0], Write)):
            await asyncio.sleep(0)
        return await super().perform(*operations)


async def test_two_uses_at_once_are_one_write() -> None:
    both = asyncio.Barrier(2)

    async def read_together(request: Request) -> Response:
        await both.wait()  # both have loaded the session before either prolongs it
        return JSONResponse(request.session)

    clock = ManualClock(1_000_000.0)
    store = CountingStore(ManyTurns(clock=clock))
    shared = SharedState(store, secret_key=SECRET, clock=clock)
    app = app_over(shared, Route("/together", read_together), idle_timeout=30 * MINUTE)
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="https://testserver") as client:
        await client.post("/update", json={"user": "ann"})
        store.reset()
        clock.advance(10 * MINUTE)
        answers = await asyncio.gather(client.get("/together"), client.get("/together"))
    assert [answer.json() for answer in answers] == [{"user": "ann"}] * 2
    assert [type(operation).__name__ for operation in store.operations] == ["Read", "Read", "Write"]
