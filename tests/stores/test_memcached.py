"""What is Memcached's own: its numbers and ours, its clock, several nodes, and threads for a client that blocks."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

import pytest
from pymemcache.client.base import Client
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from serverless_session import SessionMiddleware, SharedState
from serverless_session.deadline import may_block, within
from serverless_session.errors import StoreTimeout, StoreUnavailable, WriteUncertain
from serverless_session.stores import (
    ABSENT,
    ANYTHING,
    Conflict,
    Delete,
    Deleted,
    Failed,
    Found,
    MemcachedStore,
    Missing,
    Read,
    Version,
    Write,
    Written,
    memcached_links,
    new_version,
)
from serverless_session.stores.memcached_conversation import _expire
from serverless_session.testing.operations import new_key, one, present, write
from tests import servers
from tests.servers import Server
from tests.sessions.apps import SECRET
from tests.stores.faults import FaultyWire, Link, says
from tests.wire import TripCounter


@pytest.fixture
async def store(memcached: Server) -> AsyncIterator[MemcachedStore]:
    store = MemcachedStore(memcached.url)
    yield store
    await store.aclose()


@pytest.fixture
def raw(memcached: Server) -> Iterator[Client]:
    client = Client(("127.0.0.1", memcached.port), default_noreply=False)
    yield client
    client.close()


# --- versions are ours, the server's numbers are hints ----------------------------------------------------------------


async def test_a_value_is_its_version_followed_by_its_bytes(store: MemcachedStore, raw: Client) -> None:
    key, version = await present(store, b"value")
    assert raw.get(key) == version + b"value"


async def test_a_restarted_server_that_counts_to_the_same_number_is_not_fooled() -> None:
    """THREATS 4: a lease held from before the restart must not write over the one taken after it."""
    with servers.memcached() as server:
        store, key = MemcachedStore(server.url), new_key()
        assert await one(store, write(key, b"mine", expect=ABSENT)) == Written()
        mine = await one(store, Read(key))
        assert isinstance(mine, Found)
        number = mine.version.number  # type: ignore[attr-defined]
        server.kill()
        with servers.memcached(port=server.port):
            raw = Client(("127.0.0.1", server.port), default_noreply=False)
            theirs = new_version()
            raw.add(key, theirs + b"theirs")
            while int(raw.gets(key)[1]) < int(number):
                raw.set(key, theirs + b"theirs")
            assert raw.gets(key)[1] == number, "the server has come to the same number"
            raw.close()
            late = write(key, b"late", expect=mine.version)
            assert await one(store, late) == Conflict(Found(b"theirs", theirs))
            assert await one(store, Delete(key, expect=mine.version)) == Conflict(Found(b"theirs", theirs))
        await store.aclose()


async def test_a_number_is_used_only_on_the_connection_that_read_it(memcached: Server) -> None:
    async with TripCounter.to(memcached.port, scheme="memcached") as wire:
        store = MemcachedStore(wire.url)
        key, _ = await present(store)
        for reopened, trips in ((False, 1), (True, 2)):
            found = await one(store, Read(key))
            assert isinstance(found, Found)
            if reopened:
                await store.aclose()
            wire.reset()
            assert await one(store, write(key, b"old", expect=found.version)) == Written()
            assert wire.trips == trips
        await store.aclose()


async def test_of_several_idle_connections_the_one_that_read_is_taken(memcached: Server) -> None:
    async with TripCounter.to(memcached.port, scheme="memcached") as wire:
        store = MemcachedStore(wire.url, max_connections=4)
        keys = [(await present(store))[0] for _ in range(4)]
        found = await asyncio.gather(*(one(store, Read(key)) for key in keys))
        assert wire.connections > 1
        for key, stands in zip(keys, found, strict=True):
            assert isinstance(stands, Found)
            wire.reset()
            assert await one(store, write(key, expect=stands.version)) == Written()
            assert wire.trips == 1
        await store.aclose()


async def test_a_number_that_moved_without_the_version_is_looked_up_again(store: MemcachedStore, raw: Client) -> None:
    """Somebody's copy wrote the same version again: it still is what is expected."""
    key, version = await present(store)
    found = await one(store, Read(key))
    assert isinstance(found, Found)
    raw.set(key, version + b"old")
    assert await one(store, write(key, b"new", expect=found.version)) == Written()
    found = await one(store, Read(key))
    assert isinstance(found, Found)
    raw.set(key, found.version + b"new")
    assert await one(store, Delete(key, expect=found.version)) == Deleted()
    assert await one(store, Read(key)) == Missing()


async def test_something_else_under_a_key_is_in_the_way_and_never_mistaken(store: MemcachedStore, raw: Client) -> None:
    key = new_key()
    raw.set(key, b"abc")
    short = await one(store, Read(key))
    assert short == Found(b"", Version(b"abc".ljust(8, b"\0")))
    assert await one(store, write(key, expect=ABSENT)) == Conflict(short)
    assert await one(store, write(key, expect=new_version())) == Conflict(short)


async def test_a_server_that_keeps_no_numbers_is_told_from_one_that_does_not_answer() -> None:
    with servers.memcached("-C") as server:
        store = MemcachedStore(server.url)
        key, version = await present(store)
        begun = time.monotonic()
        with within(5.0):
            outcomes = [await one(store, write(key, expect=version)), await one(store, Delete(key, expect=version))]
        assert time.monotonic() - begun < 2.0
        for outcome in outcomes:
            assert isinstance(outcome, Failed)
            assert type(outcome.error) is StoreUnavailable
            assert "-C" in outcome.error.mend
        await store.aclose()


# --- its clock --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ttl", "expire"),
    [
        (1e-9, 2),
        (0.3, 2),
        (1.0, 2),
        (1.001, 3),
        (60.0, 61),
        (30 * 86_400 - 1.0, 30 * 86_400),
        (30 * 86_400 - 0.5, 1_800_000_000 + 30 * 86_400 + 1),
        (30 * 86_400.0, 1_800_000_000 + 30 * 86_400 + 1),
        (366 * 86_400.0, 1_800_000_000 + 366 * 86_400 + 1),
        (2**31 - 2 - 1_800_000_000.0, 2**31 - 1),
        (2**31 - 1 - 1_800_000_000.0, 0),
        (1e12, 0),
    ],
)
def test_memcached_is_told_one_second_more_and_beyond_30_days_a_date(
    ttl: float, expire: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second more, for its clock may tick at once; what ends after 2038 never does, for it."""
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000.0)
    assert _expire(ttl) == expire


async def test_the_largest_value_fits_under_the_longest_key(store: MemcachedStore) -> None:
    key = "x" * 168 + new_key().removeprefix("conformance:") + "y" * 8
    assert len(key) == 200
    largest = bytes(store.limits.largest_value_bytes)
    with within(10.0):
        operation = Write(key, largest, ttl=60, version=new_version(), expect=ABSENT)
        assert await one(store, operation) == Written()
        assert await one(store, Read(key)) == Found(largest, operation.version)
        assert await one(store, Delete(key, expect=operation.version)) == Deleted()


@pytest.mark.parametrize("inline", [False, True], ids=["threads", "inline"])
async def test_what_the_server_refuses_takes_nothing_from_the_others_of_the_call(
    memcached: Server, inline: bool
) -> None:
    """A refusal costs the connection, and the next has the same time."""
    may_block.set(inline)
    store = MemcachedStore(memcached.url, largest_value_bytes=3_000_000)
    large = [write(new_key(), bytes(2_000_000), expect=ABSENT) for _ in range(3)]
    small = write(new_key(), expect=ABSENT)
    with within(10.0):
        outcomes = await store.perform(*large, small)
    assert outcomes[3] == Written()
    for outcome in outcomes[:3]:
        assert isinstance(outcome, Failed)
        assert type(outcome.error) is StoreUnavailable
        assert "memcached -I" in outcome.error.mend
    await store.aclose()


async def test_an_error_of_a_proxy_does_not_tell_whether_a_write_was_done(memcached: Server) -> None:
    """mcrouter, memcached's own proxy and what clouds put in front: the server did it, and was too slow for them."""

    async def gives_up(link: Link) -> None:
        while request := await link.request():
            await link.ask(request)
            link.answer(b"SERVER_ERROR backend timeout\r\n")

    async with FaultyWire(memcached.port, gives_up) as wire:
        store = MemcachedStore(f"memcached://127.0.0.1:{wire.port}")
        assert await one(store, write(new_key(), expect=ABSENT)) == Written(), "the second copy finds the first"
        await store.aclose()
    async with FaultyWire(memcached.port, then=gives_up) as wire:
        store = MemcachedStore(f"memcached://127.0.0.1:{wire.port}")
        for operation, error in (
            (write(new_key(), expect=ABSENT), WriteUncertain),
            (write(new_key(), expect=ANYTHING), WriteUncertain),
            (Read(new_key()), StoreUnavailable),
        ):
            outcome = await one(store, operation)
            assert isinstance(outcome, Failed)
            assert type(outcome.error) is error
        await store.aclose()


async def test_what_was_not_stored_is_not_called_written(memcached: Server) -> None:
    async with FaultyWire(memcached.port, then=says(b"NOT_STORED\r\n")) as wire:
        store = MemcachedStore(f"memcached://127.0.0.1:{wire.port}")
        outcome = await one(store, write(new_key(), expect=ANYTHING))
        assert isinstance(outcome, Failed)
        assert type(outcome.error) is WriteUncertain
        await store.aclose()


# --- several nodes ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def nodes(count: int) -> Iterator[list[Server]]:
    with ExitStack() as stack:
        yield [stack.enter_context(servers.memcached()) for _ in range(count)]


def url_of(several: list[Server]) -> str:
    return "memcached://" + ",".join(f"127.0.0.1:{server.port}" for server in several)


async def test_keys_are_spread_and_a_call_reaches_all_nodes_at_once() -> None:
    with nodes(3) as several:
        async with contextlib.AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(TripCounter.to(node.port)) for node in several]
            store = MemcachedStore("memcached://" + ",".join(f"127.0.0.1:{wire.port}" for wire in wires))
            writes = [write(new_key(), b"%d" % number, expect=ABSENT) for number in range(60)]
            assert list(await store.perform(*writes)) == [Written()] * 60
            for wire in wires:
                wire.reset()
            found = await store.perform(*(Read(operation.key) for operation in writes))
            assert list(found) == [Found(operation.value, operation.version) for operation in writes]
            assert [wire.trips for wire in wires] == [1, 1, 1]
            assert all(wire.received_bytes > 5 * 50 for wire in wires), "each keeps its share"
            await store.aclose()


async def test_the_order_of_nodes_does_not_matter_and_one_more_takes_only_its_share() -> None:
    names = ["memcached://a,b,c", "memcached://c:11211,A,b", "memcached://a,b,c,d"]
    three, same, four = (MemcachedStore(name) for name in names)
    keys = [new_key() for _ in range(2000)]
    moved = 0
    for key in keys:
        home = three._node_of(key).name
        assert same._node_of(key).name == home
        grown = four._node_of(key).name
        assert grown in (home, "d:11211")
        moved += grown != home
    assert 380 < moved < 620


@pytest.mark.parametrize("inline", [False, True], ids=["threads", "inline"])
async def test_a_dead_node_is_unavailable_for_its_keys_and_no_other(inline: bool) -> None:
    may_block.set(inline)
    with nodes(2) as several:
        store = MemcachedStore(url_of(several))
        stood = dict([await present(store) for _ in range(20)])
        dead = f"127.0.0.1:{several[0].port}"
        theirs = [key for key in stood if store._node_of(key).name == dead]
        assert 0 < len(theirs) < 20
        several[0].kill()
        for _ in range(3):
            outcomes = await store.perform(*(Read(key) for key in stood))
            for (key, version), outcome in zip(stood.items(), outcomes, strict=True):
                if key in theirs:
                    assert isinstance(outcome, Failed)
                    assert type(outcome.error) is StoreUnavailable
                    assert dead in str(outcome.error)
                else:
                    assert outcome == Found(b"old", version)
        await store.aclose()


@pytest.mark.parametrize("inline", [False, True], ids=["threads", "inline"])
async def test_a_silent_node_does_not_take_the_others_time(inline: bool) -> None:
    may_block.set(inline)
    with nodes(2) as several:
        store = MemcachedStore(url_of(several))
        stood = [await present(store) for _ in range(20)]
        several[0].pause()
        begun = time.monotonic()
        with within(0.4):
            outcomes = await store.perform(*(Read(key) for key, _ in stood))
        assert time.monotonic() - begun < 0.8
        several[0].resume()
        for (key, version), outcome in zip(stood, outcomes, strict=True):
            if store._node_of(key).name.endswith(str(several[0].port)):
                assert isinstance(outcome, Failed)
                assert type(outcome.error) is StoreTimeout
            else:
                assert outcome == Found(b"old", version)
        await store.aclose()


async def visit(request: Request) -> JSONResponse:
    if request.url.path == "/login":
        request.session["user"] = "ada"
    if request.url.path == "/logout":
        request.session.clear()
    return JSONResponse(request.session)


def shop(shared: SharedState) -> Starlette:
    app = Starlette(routes=[Route(path, visit) for path in ("/", "/login", "/logout")])
    app.add_middleware(SessionMiddleware, shared=shared)
    return app


def test_a_node_that_comes_back_never_brings_a_session_back_after_logout() -> None:
    """THREATS 5: a rehash would have deleted it on another node, and found it again on the first one later."""
    with nodes(2) as several:
        shared = SharedState(url_of(several), secret_key=SECRET, timeout=0.3)
        with TestClient(shop(shared), base_url="https://shop.example") as client:
            for _ in range(6):  # sessions of both nodes
                client.cookies.clear()
                client.get("/login")
                cookie = {"cookie": f"session={client.cookies['session']}"}
                for server in several:
                    server.pause()
                assert client.get("/logout", headers=cookie).status_code == 503, "it is not confirmed"
                assert client.get("/", headers=cookie).status_code == 503
                for server in several:
                    server.resume()
                assert client.get("/", headers=cookie).json() == {"user": "ada"}, "nor was it done"
                assert client.get("/logout", headers=cookie).status_code == 200
                assert client.get("/", headers=cookie).json() == {}


# --- connecting -------------------------------------------------------------------------------------------------------


async def test_a_lookup_that_could_not_begin_is_begun_again(memcached: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemcachedStore(f"memcached://localhost:{memcached.port}")
    start = threading.Thread.start

    def no_thread(thread: threading.Thread) -> None:
        if thread.name == "getaddrinfo":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as without:
        without.setattr(threading.Thread, "start", no_thread)
        assert isinstance(await one(store, Read(new_key())), Failed)
    assert await one(store, Read(new_key())) == Missing()
    await store.aclose()


async def test_an_address_that_swallows_what_comes_leaves_time_for_the_next(
    memcached: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where IPv6 is announced and goes nowhere."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # its queue is full, so it answers no further connection
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        found = [(socket.AF_INET, full.getsockname()), (socket.AF_INET, ("127.0.0.1", memcached.port))]
        monkeypatch.setattr(memcached_links, "_addresses", lambda *_: found)
        monkeypatch.setattr(memcached_links, "CONNECT_SECONDS", 1.0)
        store = MemcachedStore(f"memcached://localhost:{memcached.port}")
        begun = time.monotonic()
        with within(4.0):
            assert await one(store, Read(new_key())) == Missing()
        assert time.monotonic() - begun < 0.9, "half of it, not all but a moment"
        await store.aclose()


# --- threads ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def threads_of_memcached() -> Callable[[], int]:
    """How many threads of a store run that did not run before: those of a test before this one may still be ending."""
    before = set(threading.enumerate())
    return lambda: sum(thread.name.startswith("memcached") for thread in threading.enumerate() if thread not in before)


async def test_calls_wait_in_threads_of_their_own_and_no_more_than_connections(
    memcached: Server, threads_of_memcached: Callable[[], int]
) -> None:
    async with TripCounter.to(memcached.port) as wire:
        store = MemcachedStore(f"memcached://127.0.0.1:{wire.port}", max_connections=3)
        key, version = await present(store)
        outcomes = await asyncio.gather(*(one(store, Read(key)) for _ in range(100)))
        assert outcomes == [Found(b"old", version)] * 100
        assert 1 <= wire.connections <= 3
        assert 1 <= threads_of_memcached() <= 3
        await store.aclose()
    give_up_at = time.monotonic() + 2.0
    while threads_of_memcached():
        assert time.monotonic() < give_up_at, "closing ends them"
        await asyncio.sleep(0.01)


async def test_where_the_loop_serves_one_request_no_thread_is_started(
    memcached: Server, threads_of_memcached: Callable[[], int]
) -> None:
    may_block.set(True)
    store = MemcachedStore(memcached.url)
    key, version = await present(store)
    assert await one(store, write(key, b"new", expect=version)) == Written()
    assert threads_of_memcached() == 0
    await store.aclose()


async def test_what_expects_anything_is_sent_as_it_is(store: MemcachedStore) -> None:
    key = new_key()
    assert await one(store, write(key, expect=ANYTHING, look_first=True)) == Written()
    assert await one(store, Delete(key, expect=ANYTHING)) == Deleted()
    assert await one(store, Delete(key, expect=ANYTHING)) == Missing()
