"""How often a request waits for the store, counted on the wire."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from serverless_session import SharedState
from tests.servers import Server
from tests.sessions.apps import SECRET, app_over, browser, counted
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
