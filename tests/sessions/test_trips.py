"""How often a request waits for the store, counted on the wire."""

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from serverless_session import Session, SharedState, sum_of_changes
from serverless_session.errors import SessionNotLoaded
from serverless_session.testing import ManualClock
from tests.servers import Server
from tests.sessions.apps import SECRET, app_over, browser, counted, doing
from tests.wire import TripCounter


@pytest.fixture(params=["valkey", "redis7", "redis62", "memcached"])
def wire(request: pytest.FixtureRequest) -> Iterator[TripCounter]:
    server: Server = request.getfixturevalue(request.param)
    with TripCounter.to(server.port, scheme=server.url.partition(":")[0]) as wire:
        yield wire


@pytest.fixture
def client(wire: TripCounter) -> Iterator[TestClient]:
    with browser(app_over(SharedState(wire.url, secret_key=SECRET))) as client:
        yield client


def test_trips_on_the_wire(client: TestClient, wire: TripCounter) -> None:
    def trips_of(method: str, path: str, **more: object) -> int:
        wire.reset()
        response = client.request(method, path, **more)  # type: ignore[arg-type]
        assert response.status_code == 200
        return wire.trips

    assert trips_of("GET", "/view") == 0, "no cookie"
    assert trips_of("POST", "/update", json={"a": 1, "cart": []}) == 1, "new"
    assert trips_of("GET", "/view") == 1, "read-only"
    assert trips_of("GET", "/plain") == 1, "not touched"
    assert trips_of("POST", "/update", json={"a": 1}) == 1, "written with what stood there already"
    assert trips_of("POST", "/update", json={"a": 2}) == 2, "changed"
    assert trips_of("POST", "/append", json="apple") == 2, "changed inside"
    assert trips_of("POST", "/regenerate") == 3, "a new id"
    assert trips_of("POST", "/clear") == 2, "logged out"
    assert trips_of("GET", "/view") == 0, "no cookie any more"
    genuine = client.post("/update", json={"a": 1}).cookies["session"]
    client.cookies.clear()
    for forged in ("x" * 60, genuine[:-1] + ("A" if genuine[-1] != "A" else "B"), genuine + "x", "'; DROP TABLE"):
        assert trips_of("GET", "/view", headers={"cookie": f"session={forged}"}) == 0, "forged"
    assert client.get("/view", headers={"cookie": f"session={genuine}"}).json() == {"a": 1}


EVERY_OPTION = {
    "max_age": 10_000,
    "rolling": True,
    "idle_timeout": 1000,
    "absolute_timeout": 100_000,
    "merge": {"visits": sum_of_changes},
    "together": [("tenant", "role")],
    "max_session_bytes": 1000,
    "allowed_origins": ["https://other.example"],
    "exempt": ["/exempt", "/static/*"],
}

ACTIONS = [
    doing("/look", lambda session: None),
    doing("/exempt", lambda session: None),
    doing("/put", lambda session: session.update(a=1, cart=[])),
    doing("/count", lambda session: session.update(visits=session.get("visits", 0) + 1)),
    doing("/change", lambda session: session.change("visits", lambda visits: visits + 1)),
    doing("/append", lambda session: session["cart"].append("apple")),
    doing("/save", lambda session: session.save()),
    doing("/ann", lambda session: session.login("ann", max_age=20_000)),
    doing("/bob", lambda session: session.login("bob")),
    doing("/new-id", Session.regenerate),
    doing("/out", Session.logout),
]


@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
def test_no_option_costs_a_trip(wire: TripCounter, lazy: bool) -> None:
    clock = ManualClock()
    shared = SharedState(wire.url, secret_key=SECRET, clock=clock)
    with browser(app_over(shared, *ACTIONS, lazy=lazy, **EVERY_OPTION)) as client:

        def trips(path: str, *, sets_cookie: bool = False) -> int:
            wire.reset()
            response = client.get(path)
            assert response.status_code == 200
            assert ("set-cookie" in response.headers) is sets_cookie, path
            return wire.trips

        assert trips("/look") == 0, "no cookie"
        assert trips("/put", sets_cookie=True) == 1, "new"
        assert trips("/look") == 1, "read-only"
        assert trips("/plain") == (0 if lazy else 1), "not touched"
        wire.reset()
        with pytest.raises(SessionNotLoaded):
            client.get("/exempt")
        assert wire.trips == 0, "exempt"
        assert trips("/put") == 1, "written with what stood there already"
        assert trips("/save") == 1, "saved with nothing to save"
        assert [trips(path) for path in ("/count", "/change", "/append")] == [2, 2, 2], "changed"
        assert trips("/new-id", sets_cookie=True) == 3, "a new id"
        assert trips("/ann", sets_cookie=True) == 3, "logged in"
        assert trips("/bob", sets_cookie=True) == 3, "somebody else logged in"

        clock.advance(99)
        assert trips("/look") == 1, "less than a tenth of the idle time-out is gone"
        clock.advance(2)
        assert trips("/plain") == (0 if lazy else 2), "prolonged by a request that loads it"
        assert trips("/look") == (2 if lazy else 1), "and not again at once"
        clock.advance(950)
        assert trips("/look", sets_cookie=True) == 2, "a tenth of the cookie's time is gone too"
        assert trips("/look") == 1
        clock.advance(150)
        assert trips("/save") == 2, "prolonged by a save that the app asks for"
        assert trips("/put") == 2, "changed, and not prolonged"

        cookie = f"session={client.cookies['session']}"
        assert trips("/out", sets_cookie=True) == 2, "logged out"
        assert trips("/look") == 0, "no cookie any more"
        assert trips("/ann", sets_cookie=True) == 1, "logged in without a session before"
        client.cookies.clear()
        for forged in ("session=" + "x" * 60, cookie[:-2] + ("AA" if cookie[-2:] != "AA" else "BB"), cookie + "x"):
            wire.reset()
            assert client.get("/look", headers={"cookie": forged}).json() == {}
            assert wire.trips == 0, "forged"


@pytest.mark.parametrize("options", [{"rolling": True}, {"idle_timeout": 1000, "max_age": None}])
def test_nothing_is_prolonged_before_a_tenth_is_gone(wire: TripCounter, options: dict[str, Any]) -> None:
    clock = ManualClock()
    shared = SharedState(wire.url, secret_key=SECRET, clock=clock)
    with browser(app_over(shared, *ACTIONS, **{"max_age": 1000} | options)) as client:
        client.get("/put")
        wire.reset()
        for _ in range(9):
            clock.advance(11)
            client.get("/look")
        assert wire.trips == 9
        clock.advance(2)
        client.get("/look")
        assert wire.trips == 11
        client.get("/look")
        assert wire.trips == 12


def test_one_connection_serves_requests_one_after_the_other(client: TestClient, wire: TripCounter) -> None:
    client.post("/update", json={"a": 1})
    for _ in range(20):
        client.get("/view")
    assert wire.connections == 1


def test_an_unchanged_session_is_never_written() -> None:
    shared, store = counted()
    with browser(app_over(shared)) as client:
        client.post("/update", json={"cart": ["apple"], "n": {"m": 1}})
        store.reset()
        for path in ("/view", "/plain"):
            client.get(path)
        assert [type(operation).__name__ for operation in store.operations] == ["Read", "Read"]
