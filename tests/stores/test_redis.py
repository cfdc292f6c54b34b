"""What is Redis's own when things go wrong: bursts of which a part was answered, and what a server refuses.

What holds for every networked store is in `test_faults`.
"""

import asyncio
import contextlib
import gc
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from serverless_session.deadline import within
from serverless_session.errors import (
    StoreTimeout,
    StoreUnavailable,
    WriteUncertain,
)
from serverless_session.stores import (
    ABSENT,
    ANYTHING,
    Conflict,
    Delete,
    Deleted,
    Found,
    Missing,
    Operation,
    Read,
    RedisStore,
    Version,
    Written,
)
from serverless_session.testing.operations import new_key, one, present, write
from tests import servers
from tests.servers import Server
from tests.stores.faults import (
    Behaviour,
    FaultyWire,
    Link,
    answers_only,
    says,
    silent,
)
from tests.stores.networked import closed_port, error_of, every_kind, kinds, timed
from tests.wire import TripCounter


@pytest.fixture(autouse=True)
def _nothing_is_left_to_the_collector() -> Iterator[None]:
    """A connection that was not closed warns when it is collected, and a warning is an error here."""
    yield
    gc.collect()


@pytest.fixture
async def direct(valkey: Server) -> AsyncIterator[RedisStore]:
    """The server without the faulty wire."""
    store = RedisStore(valkey.url)
    yield store
    await store.aclose()


@contextlib.asynccontextmanager
async def behind(
    server: Server, *behaviours: Behaviour, then: Behaviour = Link.honest
) -> AsyncIterator[tuple[RedisStore, FaultyWire]]:
    async with FaultyWire(server.port, *behaviours, then=then) as wire:
        store = RedisStore(wire.url)
        yield store, wire
        await store.aclose()


# --- bursts -----------------------------------------------------------------------------------------------------------


async def test_what_can_be_settled_is_sent_again_without_what_cannot(valkey: Server, direct: RedisStore) -> None:
    requests = list[bytes]()

    async def noted(link: Link) -> None:
        requests.append(await link.request())

    async def noted_and_done(link: Link) -> None:
        requests.append(await link.request())
        link.answer(await link.ask(requests[-1], answers=2))
        await link.request()

    key = new_key()
    async with behind(valkey, noted, noted_and_done) as (store, _):
        outcomes = await timed(
            store, write(key + "w", expect=ANYTHING), Read(key + "r"), write(key + "v", expect=ABSENT)
        )
        assert kinds(outcomes[:1]) == [WriteUncertain]
        assert list(outcomes[1:]) == [Missing(), Written()]
    assert [(key + suffix).encode() in requests[0] for suffix in "wrv"] == [True, True, True]
    assert [(key + suffix).encode() in requests[1] for suffix in "wrv"] == [False, True, True]
    assert await one(direct, Read(key + "w")) == Missing()


@pytest.mark.parametrize("answered", [1, 2, 3, 4])
async def test_half_of_a_burst_answered_is_half_settled(valkey: Server, direct: RedisStore, answered: int) -> None:
    """What was answered counts, conflicts among it; the rest is sent again."""
    taken, version = await present(direct)
    beside, beside_version = await present(direct)
    doomed, doomed_version = await present(direct)
    burst: list[Operation] = [
        write(taken, expect=ABSENT),
        write(new_key(), expect=ABSENT),
        Delete(doomed, expect=doomed_version),
        Read(beside),
        Delete(new_key(), expect=ANYTHING),
    ]
    async with behind(valkey, answers_only(answered, of=5)) as (store, wire):
        outcomes = await timed(store, *burst)
        assert outcomes[0] == Conflict(Found(b"old", version))
        assert outcomes[1] == Written()
        assert outcomes[2] == (Deleted() if answered >= 3 else Missing())
        assert outcomes[3] == Found(b"old", beside_version)
        assert kinds(outcomes[4:]) == [WriteUncertain]
        assert wire.connections == (2 if answered < 4 else 1), "what is left cannot be sent again"


async def test_a_server_that_is_loading_its_data_has_written_nothing(valkey: Server) -> None:
    loading = says(b"-LOADING Redis is loading the dataset in memory\r\n")
    async with behind(valkey, then=loading) as (store, wire):
        for operation in every_kind():
            assert kinds(await timed(store, operation)) == [StoreUnavailable]
        assert wire.connections == 5


# --- what a server refuses --------------------------------------------------------------------------------------------


async def test_a_full_server_refuses_writes_and_answers_reads() -> None:
    with servers.valkey("--maxmemory-policy", "noeviction") as server:
        store = RedisStore(server.url)
        key, version = await present(store)
        await tell(server, "CONFIG SET maxmemory 1")
        read, written, deleted = await timed(
            store, Read(key), write(new_key(), expect=ABSENT), Delete(new_key(), expect=version)
        )
        assert read == Found(b"old", version)
        for refused in (written, *await timed(store, write(key, expect=version))):
            error = error_of(refused)
            assert type(error) is StoreUnavailable
            assert "maxmemory" in error.mend
        assert deleted == Missing()
        await store.aclose()


async def test_a_replica_refuses_writes(valkey: Server) -> None:
    with servers.valkey("--replicaof", "127.0.0.1", str(closed_port()), "--replica-serve-stale-data", "yes") as server:
        store = RedisStore(server.url)
        read, written = await timed(store, Read("a"), write("b", expect=ABSENT))
        assert read == Missing()
        assert type(error_of(written)) is StoreUnavailable
        assert "primary" in error_of(written).mend
        await store.aclose()


async def test_a_user_who_may_not_is_told_which_commands_are_needed() -> None:
    with servers.valkey("--user", "app", "on", ">hunter2secret", "~mine:*", "+get", "+mget") as server:
        store = RedisStore(f"redis://app:hunter2secret@127.0.0.1:{server.port}")
        assert await timed(store, Read("mine:a"), Read("mine:c")) == [Missing(), Missing()]
        for outcome in await timed(store, Read("mine:a"), Read("yours:a"), write("mine:b", expect=ABSENT)):
            error = error_of(outcome)
            assert type(error) is StoreUnavailable
            assert "GETRANGE" in error.mend
            assert "yours" not in str(error)
        await store.aclose()


async def tell(server: Server, *commands: str) -> list[bytes]:
    """What a server answers to each command, over a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    answers = []
    for command in commands:
        writer.write(f"{command}\r\n".encode())
        answers.append(await reader.readline())
    writer.close()
    await writer.wait_closed()
    return answers


@pytest.mark.parametrize("credentials", ["", "app:wrong-password@", ":wrong-password@"])
async def test_wrong_credentials_are_unavailable_and_never_shown(credentials: str) -> None:
    with servers.valkey("--user", "app", "on", ">right-password", "~*", "+@all") as server:
        await tell(server, "CONFIG SET requirepass right-password")
        store = RedisStore(f"redis://{credentials}127.0.0.1:{server.port}")
        for outcome in await timed(store, *every_kind()):
            error = error_of(outcome)
            assert type(error) is StoreUnavailable
            assert "password" not in str(error)
        await store.aclose()


async def test_right_credentials_a_database_and_a_unix_socket_work() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "socket"
        with servers.valkey("--unixsocket", str(path)) as server:
            await tell(server, "CONFIG SET requirepass right-password")
            key = new_key()
            for url, expected in (
                (f"redis://:right-password@127.0.0.1:{server.port}/3", Written()),
                (f"unix://:right-password@{path}?db=3", Conflict),
                (f"unix://:right-password@{path}?db=4", Written()),
            ):
                store = RedisStore(url)
                (outcome,) = await timed(store, write(key, expect=ABSENT))
                assert outcome == expected or isinstance(outcome, Conflict)
                await store.aclose()


async def test_something_else_under_a_key_is_in_the_way_and_never_mistaken(valkey: Server) -> None:
    name = new_key()
    await tell(valkey, f"SET {name}:short abc", f"SET {name}:long 0123456789", f"RPUSH {name}:list a")
    store = RedisStore(valkey.url)
    short, long, several = await timed(store, Read(name + ":short"), Read(name + ":long"), Read(name + ":list"))
    assert isinstance(short, Found)
    assert short.value == b""
    assert long == Found(b"89", Version(b"01234567"))
    assert several == Missing(), "one command reads several, and says no more"
    assert type(error_of(await one(store, Read(name + ":list")))) is StoreUnavailable
    for suffix in (":short", ":long"):
        assert isinstance(await one(store, write(name + suffix, expect=ABSENT)), Conflict)
        assert isinstance(await one(store, write(name + suffix, expect=short.version)), Conflict)
    assert type(error_of(await one(store, write(name + ":list", expect=ABSENT)))) is StoreUnavailable
    await store.aclose()


# --- deadlines --------------------------------------------------------------------------------------------------------


async def test_waiting_for_a_free_connection_is_a_timeout_of_something_never_sent(valkey: Server) -> None:
    async with FaultyWire(valkey.port, then=silent) as wire:
        store = RedisStore(wire.url, max_connections=1)
        with within(5.0):
            blocking = asyncio.ensure_future(store.perform(Read("a")))
            await asyncio.sleep(0.05)
        assert kinds(await timed(store, *every_kind())) == [StoreTimeout] * 5
        blocking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await blocking
        await store.aclose()


# --- connections ------------------------------------------------------------------------------------------------------


async def test_the_first_answer_of_a_connection_takes_one_trip(redis_server: Server) -> None:
    for operation in every_kind():
        async with TripCounter.to(redis_server.port) as wire:
            store = RedisStore(wire.url)
            await timed(store, operation)
            assert (wire.trips, wire.connections) == (1, 1)
            await store.aclose()


async def test_a_burst_takes_one_trip(redis_server: Server) -> None:
    async with TripCounter.to(redis_server.port) as wire:
        store = RedisStore(wire.url)
        for _ in range(3):
            await timed(store, *(Read(new_key()) for _ in range(5)))
        assert (wire.trips, wire.connections) == (3, 1)
        wire.reset()
        await timed(store, *every_kind())
        assert (wire.trips, wire.connections) == (1, 0)
        await store.aclose()
