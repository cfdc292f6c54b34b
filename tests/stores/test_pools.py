"""Connections to one server, whatever is spoken over them: how many, which are trusted, and what a cancelled call does.

Each test runs on every store over a network, in every way that it can be used.
"""

import asyncio
import contextlib
import gc
import random
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from serverless_session.deadline import within
from serverless_session.errors import StoreTimeout, StoreUnavailable, WriteUncertain
from serverless_session.stores import (
    ABSENT,
    ANYTHING,
    Conflict,
    Delete,
    Failed,
    Found,
    Missing,
    Operation,
    Outcome,
    Read,
    Written,
    links,
    memcached_links,
    new_version,
)
from serverless_session.stores.links import Links
from serverless_session.stores.settling import LinkBroken
from serverless_session.testing.operations import new_key, one, present, write
from tests.servers import LOOPBACK, Server
from tests.stores.ways import (
    IN_THEIR_OWN_TIME,
    WAYS,
    NetworkedStore,
    Way,
    comes_back_to,
    held_open,
    open_sockets,
    store_threads,
)
from tests.wire import TripCounter


@pytest.fixture(autouse=True)
def _nothing_is_left_to_the_collector() -> Iterator[None]:
    """A connection that was not closed warns when it is collected, and a warning is an error here; threads end."""
    yield
    gc.collect()
    give_up_at = time.monotonic() + 2.0
    while store_threads():
        assert time.monotonic() < give_up_at, "a thread waits on, although nobody waits for it"
        time.sleep(0.002)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return Way(request.param)


@pytest.fixture(params=IN_THEIR_OWN_TIME)
def own_time(request: pytest.FixtureRequest) -> Way:
    """A store that does not block the loop."""
    return Way(request.param)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Server:
    name = next(name for name in ("way", "own_time") if name in request.fixturenames)
    way: Way = request.getfixturevalue(name)
    return way.server(request)


@contextlib.asynccontextmanager
async def closing(store: NetworkedStore) -> AsyncIterator[NetworkedStore]:
    try:
        yield store
    finally:
        await store.aclose()


@contextlib.contextmanager
def silent_port() -> Iterator[tuple[int, socket.socket]]:
    """A port that accepts and never says anything: the kernel does it, so that a loop may be blocked meanwhile."""
    with socket.create_server((LOOPBACK, 0), backlog=100) as listener:
        yield listener.getsockname()[1], listener


def kinds(outcomes: Sequence[Outcome]) -> list[type]:
    assert all(isinstance(outcome, Failed) for outcome in outcomes), outcomes
    return [type(outcome.error) for outcome in outcomes if isinstance(outcome, Failed)]


def every_kind() -> list[Operation]:
    return [
        Read(new_key()),
        write(new_key(), expect=ABSENT),
        Delete(new_key(), expect=new_version()),
        write(new_key(), expect=ANYTHING),
        Delete(new_key(), expect=ANYTHING),
    ]


# --- how many ---------------------------------------------------------------------------------------------------------


async def test_1000_calls_at_once_share_4_connections(way: Way, server: Server) -> None:
    with TripCounter.to(server.port, quiet=0.0) as wire:
        async with closing(way.store(wire.port, most=4)) as store:
            with within(20.0):
                stood = await asyncio.gather(*(present(store, b"%d" % number) for number in range(20)))
                outcomes = await asyncio.gather(*(one(store, Read(stood[number % 20][0])) for number in range(1000)))
                assert outcomes == [Found(b"%d" % (at % 20), stood[at % 20][1]) for at in range(1000)]
                free = [write(new_key(), b"%d" % number, expect=ABSENT) for number in range(1000)]
                assert await asyncio.gather(*(one(store, operation) for operation in free)) == [Written()] * 1000
            assert 1 <= wire.connections <= 4
            assert store_threads() <= (4 if way.name == "memcached" else 0)


async def test_second_copies_do_not_add_to_the_connections(own_time: Way) -> None:
    """Each takes a new connection: where many answers are lost, they must not pile up."""
    with own_time.own_server() as server:
        async with closing(own_time.store(server.port, most=4)) as store:
            key, version = await present(store)
            with within(10.0):
                await asyncio.gather(*(one(store, Read(key)) for _ in range(20)))
            before = open_sockets()
            for _ in range(3):
                server.pause()
                with within(0.4):
                    calls = [asyncio.ensure_future(one(store, Read(key))) for _ in range(8)]
                    await asyncio.sleep(0.15)
                with within(5.0):
                    calls += [asyncio.ensure_future(one(store, Read(key))) for _ in range(40)]
                await asyncio.sleep(0.1)  # the first copies have timed out
                server.resume()
                outcomes = await asyncio.gather(*calls)
                assert outcomes.count(Found(b"old", version)) >= 40
            await asyncio.sleep(0.01)
            assert open_sockets() <= before


async def test_a_pool_never_holds_more_than_it_may() -> None:
    """Answers lost at random, calls cancelled at random; connections that do nothing but count."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    is_open = set[object]()
    highest = 0

    class Counted:
        life = object()

        def __init__(self) -> None:
            nonlocal highest
            is_open.add(self)
            highest = max(highest, len(is_open))

        async def is_quiet(self) -> bool:
            return dice.random() < 0.9

        async def drop(self) -> None:
            is_open.discard(self)

    pool = Links(Counted, 4)

    async def talk(link: Counted, ends: float) -> None:
        assert link in is_open
        await asyncio.sleep(dice.random() * 0.01)
        if dice.random() < 0.1:
            raise LinkBroken("broke")

    async def call() -> None:
        ends = asyncio.get_running_loop().time() + 0.016  # half of it for the first copy: many time out
        for again in (False, True):
            with contextlib.suppress(LinkBroken):
                await pool.carry(talk, ends + 5.0 * again, again=again)
                return

    calls = [asyncio.ensure_future(call()) for _ in range(600)]
    for running in dice.sample(calls, 100):
        asyncio.get_running_loop().call_later(dice.random() * 0.5, running.cancel)
    await asyncio.wait(calls)
    assert highest == 4
    await pool.aclose()
    assert not is_open


async def test_waiting_for_a_free_connection_is_a_timeout_of_something_never_sent(own_time: Way) -> None:
    with silent_port() as (port, _):
        async with closing(own_time.store(port, most=1)) as store:
            with within(5.0):
                blocking = asyncio.ensure_future(one(store, Read("a")))
                await asyncio.sleep(0.05)
            with within(0.2):
                assert kinds(await store.perform(*every_kind())) == [StoreTimeout] * 5
            blocking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await blocking


async def test_calls_that_wait_while_the_store_is_closed_are_answered(own_time: Way, server: Server) -> None:
    before = held_open()
    store = own_time.store(server.port, most=2)
    assert await one(store, Read("a")) == Missing()
    for _ in range(3):
        calls = [asyncio.ensure_future(one(store, Read("a"))) for _ in range(20)]
        await asyncio.sleep(0)
        await store.aclose()
        assert await asyncio.gather(*calls) == [Missing()] * 20
    await store.aclose()
    await asyncio.sleep(0.01)
    assert comes_back_to(before)


# --- which are trusted ------------------------------------------------------------------------------------------------


class Relay:
    """A proxy whose connections can be ended, as a balancer or a restarted server would."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ends = list[tuple[socket.socket, asyncio.StreamWriter]]()
        self._tasks = set[asyncio.Task[None]]()
        self.connections = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        there, back = await asyncio.open_connection(LOOPBACK, self._port)
        self._ends.append((writer.get_extra_info("socket"), writer))
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await asyncio.gather(self._hand_on(reader, back), self._hand_on(there, writer))
        finally:
            for end in (back, writer):
                end.transport.abort()

    async def _hand_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65_536):
            writer.write(piece)
        raise ConnectionResetError

    async def end_all(self, *, reset: bool) -> None:
        for raw, writer in self._ends:
            if reset:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, links.RESET_ON_CLOSE)
            writer.transport.abort()
        self._ends.clear()
        await asyncio.sleep(0.02)

    async def __aenter__(self) -> "Relay":
        self._listener = await asyncio.start_server(self._serve, LOOPBACK, 0)
        self.port: int = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_an_idle_connection_that_the_server_ended_is_replaced_unnoticed(
    own_time: Way, server: Server, reset: bool
) -> None:
    async with Relay(server.port) as wire, closing(own_time.store(wire.port)) as store:
        key, _ = await present(store)
        for _ in range(3):
            await wire.end_all(reset=reset)
            assert await one(store, write(key, expect=ANYTHING)) == Written(), "although it is never sent again"
        assert wire.connections == 4


async def test_a_connection_that_rested_too_long_is_not_trusted(
    way: Way, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TripCounter.to(server.port) as wire:
        async with closing(way.store(wire.port)) as store:
            for _ in range(3):
                await one(store, Read("a"))
            assert wire.connections == 1
            monkeypatch.setattr(links, "REST_SECONDS", 0.0)
            await one(store, Read("a"))
            assert wire.connections == 2


async def test_after_a_broken_connection_the_idle_ones_are_not_trusted_either(own_time: Way, server: Server) -> None:
    """Most often the whole server went away: so the next calls do not stumble one after the other."""
    async with Relay(server.port) as wire, closing(own_time.store(wire.port)) as store:
        with within(5.0):
            await asyncio.gather(*(one(store, Read("a")) for _ in range(8)))
        idle = wire.connections
        assert 2 <= idle <= 8
        doomed = asyncio.ensure_future(one(store, Read("b")))
        while not doomed.done():  # in the middle of it, or before, or after
            await wire.end_all(reset=True)
        outcome = await doomed
        assert outcome == Missing() or kinds([outcome]) == [StoreUnavailable], "if its second copy was broken as well"
        written = await asyncio.gather(*(one(store, write(new_key(), expect=ANYTHING)) for _ in range(4)))
        assert written == [Written()] * 4, "although none of them can be sent again"


async def test_what_a_silent_server_did_not_take_is_not_kept_open(way: Way) -> None:
    """12 MB wait for a server that does not read: they go with the call, and do not land when it reads again."""
    before = held_open()
    with silent_port() as (port, listener):
        store = way.store(port)
        large = 12 << 20 if way.name == "valkey" else store.limits.largest_value_bytes
        for _ in range(3):
            with within(0.3):
                operation = write(new_key(), bytes(large), expect=ANYTHING)
                assert kinds(await store.perform(operation)) == [WriteUncertain]
        await asyncio.sleep(0.02)
        listener.setblocking(False)
        while True:
            try:
                accepted, _ = listener.accept()
            except BlockingIOError:
                break
            with accepted:
                accepted.settimeout(2.0)
                with pytest.raises(ConnectionResetError):  # not a farewell, after everything was sent
                    _read_to_the_end(accepted)
        await store.aclose()
    await asyncio.sleep(0.01)
    assert comes_back_to(before)


def _read_to_the_end(accepted: socket.socket) -> None:
    while accepted.recv(1 << 20):
        pass


# --- cancellation -----------------------------------------------------------------------------------------------------


async def test_a_cancelled_call_is_cancelled_and_its_connection_not_used_again(own_time: Way) -> None:
    with own_time.own_server() as server, TripCounter.to(server.port) as wire:
        async with closing(own_time.store(wire.port)) as store:
            key, version = await present(store)
            server.pause()
            with within(20.0):
                call = asyncio.ensure_future(one(store, Read(new_key())))
                await asyncio.sleep(0.05)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
            server.resume()
            assert await one(store, Read(key)) == Found(b"old", version)
            assert wire.connections == 2


async def test_cancelled_calls_free_their_connections_and_threads_at_once(own_time: Way) -> None:
    """More than there are connections, at a server that is silent: whoever comes next finds them free."""
    with own_time.own_server() as server:
        async with closing(own_time.store(server.port, most=3)) as store:
            key, version = await present(store)
            for _ in range(3):
                server.pause()
                with within(30.0):
                    calls = [asyncio.ensure_future(one(store, Read(key))) for _ in range(8)]
                    calls += [asyncio.ensure_future(one(store, write(new_key(), expect=ABSENT))) for _ in range(8)]
                    await asyncio.sleep(0.05)
                for call in calls:
                    call.cancel()
                await asyncio.wait(calls)
                assert all(call.cancelled() for call in calls)
                server.resume()
                begun = time.monotonic()
                assert await one(store, Read(key)) == Found(b"old", version)
                assert time.monotonic() - begun < 0.5, "its first copy was answered"
                assert store_threads() <= 3


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5])
async def test_calls_cancelled_before_they_wait_free_their_threads_too(own_time: Way, turns: int) -> None:
    """In the midst of connecting: `turns` of the loop after they began."""
    with silent_port() as (port, _):
        store = own_time.store(port, most=2)
        with within(30.0):
            for _ in range(20):
                call = asyncio.ensure_future(one(store, write(new_key(), expect=ABSENT)))
                for _ in range(turns):
                    await asyncio.sleep(0)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
        await store.aclose()


async def test_a_link_that_is_dropped_while_it_connects_does_not_begin_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its socket cannot be shut down yet."""
    found = threading.Event()
    addresses = memcached_links._addresses

    def slow(*of: Any) -> Any:
        assert found.wait(5.0)
        return addresses(*of)

    def work(link: memcached_links.MemcachedLink) -> None:
        link.delete("a", lambda: None)

    monkeypatch.setattr(memcached_links, "_addresses", slow)
    with silent_port() as (port, _), ThreadPoolExecutor(1) as threads:
        link = memcached_links.MemcachedLink(LOOPBACK, port, threads, None)
        ends = asyncio.get_running_loop().time() + 30.0
        waiting = asyncio.ensure_future(link.run(work, ends, here=False))
        await asyncio.sleep(0.01)
        await link.drop()
        found.set()
        begun = time.monotonic()
        with pytest.raises(LinkBroken):
            await waiting
        assert time.monotonic() - begun < 1.0


async def test_a_storm_of_cancellations_gives_nobody_anothers_value(own_time: Way, server: Server) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    answered = cancelled = 0

    async with closing(own_time.store(server.port, most=4)) as store:
        with within(30.0):
            stood = [await present(store, b"%d" % number) for number in range(50)]

            async def call(number: int) -> Sequence[Outcome]:
                keys = [stood[(number + step) % 50][0] for step in range(1 + number % 3)]
                return await store.perform(*(Read(key) for key in keys))

            for _ in range(60):
                calls = [
                    (number, asyncio.ensure_future(call(number))) for number in (dice.randrange(50) for _ in range(20))
                ]
                for _, running in calls:
                    if dice.random() < 0.5:
                        asyncio.get_running_loop().call_later(dice.random() * 0.004, running.cancel)
                await asyncio.wait([running for _, running in calls])
                for number, running in calls:
                    if running.cancelled():
                        cancelled += 1
                        continue
                    answered += 1
                    expected = [(number + step) % 50 for step in range(1 + number % 3)]
                    assert list(running.result()) == [Found(b"%d" % at, stood[at][1]) for at in expected]
            assert await one(store, Read(stood[7][0])) == Found(b"7", stood[7][1])
    assert answered > 100
    assert cancelled > 100


async def test_cancelled_claims_are_never_won_twice(own_time: Way, server: Server) -> None:
    """And a claim that was refused shows whose it is, whatever became of the others."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    async with closing(own_time.store(server.port, most=4)) as store:
        with within(30.0):
            for _ in range(40):
                key = new_key()
                operations = [write(key, b"%d" % number, expect=ABSENT) for number in range(10)]
                claims = [asyncio.ensure_future(one(store, operation)) for operation in operations]
                for running in claims[:5]:
                    asyncio.get_running_loop().call_later(dice.random() * 0.003, running.cancel)
                await asyncio.wait(claims)
                outcomes = [claim.result() for claim in claims if not claim.cancelled()]
                stands = await one(store, Read(key))
                assert outcomes.count(Written()) <= 1
                for claim, operation in zip(claims, operations, strict=True):
                    if not claim.cancelled():
                        won = stands == Found(operation.value, operation.version)
                        assert claim.result() == (Written() if won else Conflict(stands))  # type: ignore[arg-type]
