"""The Redis store when things go wrong: each call ends in its time, and says no more and no less than it knows.

Faults happen on a wire in front of a real Valkey. That each outcome is right is checked over a connection of its own.
"""

import asyncio
import contextlib
import gc
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from serverless_session.deadline import set_invocation_end, within
from serverless_session.errors import (
    ServerlessSessionError,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
    ValueTooLarge,
    WriteUncertain,
)
from serverless_session.stores import (
    ABSENT,
    ANYTHING,
    Conflict,
    Delete,
    Deleted,
    Failed,
    Found,
    Limits,
    Missing,
    Operation,
    Outcome,
    Read,
    RedisStore,
    Store,
    Version,
    Written,
    new_version,
)
from serverless_session.testing.operations import new_key, one, present, write
from tests import servers
from tests.servers import Server
from tests.stores.faults import (
    Behaviour,
    FaultyWire,
    Link,
    answer_lost,
    answer_never_comes,
    answers_only,
    hangs_up,
    resets,
    says,
    silent,
)
from tests.wire import TripCounter

LIMIT = 0.5
SLACK = 0.25
"""What a busy machine may add to a deadline."""


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


async def timed(store: Store, *operations: Operation, limit: float = LIMIT) -> Sequence[Outcome]:
    """The outcomes of a call, which must end in its time."""
    begun = time.monotonic()
    with within(limit):
        outcomes = await store.perform(*operations)
    took = time.monotonic() - begun
    assert took < max(limit, 0) + SLACK, f"{took:.2f} s"
    return outcomes


def error_of(outcome: Outcome) -> ServerlessSessionError:
    assert isinstance(outcome, Failed), outcome
    return outcome.error


def kinds(outcomes: Sequence[Outcome]) -> list[type]:
    return [type(error_of(outcome)) for outcome in outcomes]


def every_kind(key: str = "") -> list[Operation]:
    """An operation of every kind, on five keys."""
    key = key or new_key()
    return [
        Read(key + "r"),
        write(key + "w", expect=ABSENT),
        Delete(key + "d", expect=new_version()),
        write(key + "W", expect=ANYTHING),
        Delete(key + "D", expect=ANYTHING),
    ]


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# --- faults, and what is known of each operation then -----------------------------------------------------------------


async def test_a_refused_port_is_unavailable_and_nothing_was_written() -> None:
    store = RedisStore(f"redis://127.0.0.1:{closed_port()}")
    assert kinds(await timed(store, *every_kind())) == [StoreUnavailable] * 5
    for operation in every_kind():
        assert kinds(await timed(store, operation)) == [StoreUnavailable]


async def test_a_host_that_does_not_exist_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody_knows(*host_and_port: object, **more: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", nobody_knows)
    assert kinds(await timed(RedisStore("redis://nowhere.example"), *every_kind())) == [StoreUnavailable] * 5


async def test_a_silent_server_times_reads_out_and_leaves_writes_uncertain(valkey: Server) -> None:
    async with behind(valkey, then=silent) as (store, wire):
        outcomes = await timed(store, *every_kind())
        assert kinds(outcomes) == [StoreTimeout] + [WriteUncertain] * 4
        assert wire.connections == 2, "sent once, and once more"
        for operation in every_kind():
            (error,) = [error_of(outcome) for outcome in await timed(store, operation)]
            assert isinstance(error, StoreTimeout if isinstance(operation, Read) else WriteUncertain)
            assert "0.50 s" in str(error)


async def test_the_conveniences_raise_what_the_outcome_says(valkey: Server) -> None:
    async with behind(valkey, then=silent) as (store, _):
        for call, error in (
            (store.read("a"), StoreTimeout),
            (store.write("a", b"", ttl=1, version=new_version(), expect=ABSENT), WriteUncertain),
            (store.delete("a", expect=new_version()), WriteUncertain),
        ):
            with within(0.2), pytest.raises(error):
                await call


@pytest.mark.parametrize("fault", [hangs_up, resets], ids=["hangs up", "resets"])
async def test_a_server_that_ends_after_each_request_leaves_writes_uncertain(valkey: Server, fault: Behaviour) -> None:
    async with behind(valkey, then=fault) as (store, wire):
        assert kinds(await timed(store, *every_kind())) == [StoreUnavailable] + [WriteUncertain] * 4
        assert wire.connections == 2


@pytest.mark.parametrize("fault", [hangs_up, resets, silent], ids=["hangs up", "resets", "says nothing"])
async def test_a_request_that_was_lost_is_sent_again(valkey: Server, direct: RedisStore, fault: Behaviour) -> None:
    doomed, version = await present(direct)
    async with behind(valkey, fault) as (store, wire):
        read, first, delete = Read(new_key()), write(new_key(), expect=ABSENT), Delete(doomed, expect=version)
        assert list(await timed(store, read, first, delete)) == [Missing(), Written(), Deleted()]
        assert await one(direct, Read(first.key)) == Found(b"new", first.version)
        assert wire.connections == 2


@pytest.mark.parametrize("fault", [answer_lost, answer_never_comes], ids=["answer lost", "answer never comes"])
async def test_a_lost_answer_is_settled_by_sending_again(valkey: Server, direct: RedisStore, fault: Behaviour) -> None:
    key, version = await present(direct)
    async with behind(valkey, fault) as (store, wire):
        first = write(new_key(), expect=ABSENT)
        assert list(await timed(store, first)) == [Written()]
        assert await one(direct, Read(first.key)) == Found(b"new", first.version)
        assert wire.connections == 2
    async with behind(valkey, fault) as (store, _):
        second = write(key, expect=version)
        assert list(await timed(store, second)) == [Written()]
        assert await one(direct, Read(key)) == Found(b"new", second.version)
    async with behind(valkey, fault) as (store, _):
        assert list(await timed(store, Delete(key, expect=second.version))) == [Missing()], "gone, by whomever"
    async with behind(valkey, fault) as (store, _):
        assert list(await timed(store, Read(first.key))) == [Found(b"new", first.version)]


async def test_a_refusal_whose_answer_was_lost_stays_uncertain(valkey: Server, direct: RedisStore) -> None:
    """What the second copy meets may have come after the first had landed: it proves nothing."""
    key, version = await present(direct)
    for operation in (write(key, expect=ABSENT), write(key, expect=new_version()), Delete(key, expect=new_version())):
        async with behind(valkey, answer_lost) as (store, _):
            assert kinds(await timed(store, operation)) == [WriteUncertain]
        assert await one(direct, Read(key)) == Found(b"old", version)


async def test_a_second_copy_that_meets_somebody_elses_version_is_uncertain(valkey: Server, direct: RedisStore) -> None:
    key, version = await present(direct)
    mine, theirs = write(key, b"mine", expect=version), write(key, b"theirs", expect=ANYTHING)

    async def overtaken(link: Link) -> None:
        await link.ask(await link.request())
        assert await one(direct, theirs) == Written()

    async with behind(valkey, overtaken) as (store, _):
        assert kinds(await timed(store, mine)) == [WriteUncertain]
    assert await one(direct, Read(key)) == Found(b"theirs", theirs.version), "and theirs stands"


async def test_a_second_copy_that_meets_nothing_is_uncertain(valkey: Server, direct: RedisStore) -> None:
    key, version = await present(direct)

    async def deleted_meanwhile(link: Link) -> None:
        await link.ask(await link.request())
        assert await one(direct, Delete(key, expect=ANYTHING)) == Deleted()

    async with behind(valkey, deleted_meanwhile) as (store, _):
        assert kinds(await timed(store, write(key, expect=version))) == [WriteUncertain]
    assert await one(direct, Read(key)) == Missing()


async def test_a_first_copy_that_lands_late_changes_nothing(valkey: Server, direct: RedisStore) -> None:
    """Why a second copy settles what a read could not: its success moves the version."""
    key, version = await present(direct)
    landed, late = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def delayed(link: Link) -> None:
        request = await link.request()
        await landed.wait()
        late.set_result(await link.ask(request))

    async with behind(valkey, delayed) as (store, _):
        mine = write(key, b"mine", expect=version)
        assert list(await timed(store, mine)) == [Written()]
        theirs = write(key, b"theirs", expect=mine.version)
        assert await one(direct, theirs) == Written()
        landed.set()
        assert b"theirs" in await late, "the late copy was refused"
    assert await one(direct, Read(key)) == Found(b"theirs", theirs.version)


async def test_what_expects_anything_is_never_sent_again(valkey: Server, direct: RedisStore) -> None:
    key, _ = await present(direct)
    for operation in (write(key, expect=ANYTHING), Delete(key, expect=ANYTHING)):
        for fault in (answer_lost, hangs_up, answer_never_comes):
            async with behind(valkey, fault) as (store, wire):
                assert kinds(await timed(store, operation)) == [WriteUncertain]
                assert wire.connections == 1


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


async def test_half_an_answer_is_no_answer(valkey: Server, direct: RedisStore) -> None:
    key, version = await present(direct, b"v" * 1000)

    async def cut(link: Link) -> None:
        link.answer((await link.ask(await link.request()))[:500])

    async with behind(valkey, cut) as (store, wire):
        assert list(await timed(store, Read(key))) == [Found(b"v" * 1000, version)]
        assert wire.connections == 2


async def test_bytes_that_trickle_in_do_not_stretch_the_deadline(valkey: Server, direct: RedisStore) -> None:
    key, _ = await present(direct, b"v" * 1000)

    async def trickles(link: Link) -> None:
        for byte in await link.ask(await link.request()):
            link.answer(bytes((byte,)))
            await asyncio.sleep(0.02)

    async with behind(valkey, then=trickles) as (store, _):
        assert kinds(await timed(store, Read(key))) == [StoreTimeout]


@pytest.mark.parametrize(
    "junk", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$x\r\n", b":1.5\r\n", b"\r\n", b"*1\r\n$9z\r\n"]
)
async def test_a_server_that_speaks_something_else_is_an_outcome_too(valkey: Server, junk: bytes) -> None:
    async with behind(valkey, then=says(junk)) as (store, _):
        assert kinds(await timed(store, *every_kind())) == [StoreUnavailable] + [WriteUncertain] * 4


async def test_a_server_that_is_loading_its_data_has_written_nothing(valkey: Server) -> None:
    loading = says(b"-LOADING Redis is loading the dataset in memory\r\n")
    async with behind(valkey, then=loading) as (store, wire):
        for operation in every_kind():
            assert kinds(await timed(store, operation)) == [StoreUnavailable]
        assert wire.connections == 5


async def test_a_frozen_server_costs_each_call_its_deadline_and_no_more() -> None:
    with servers.valkey() as server:
        store = RedisStore(server.url)
        key, version = await present(store)
        server.pause()
        outcomes = await timed(store, Read(key), write(new_key(), expect=ABSENT))
        assert kinds(outcomes) == [StoreTimeout, WriteUncertain]
        begun = time.monotonic()
        many = await asyncio.gather(*(timed(store, Read(key)) for _ in range(40)))
        assert time.monotonic() - begun < LIMIT + SLACK
        assert [kinds(outcomes) for outcomes in many] == [[StoreTimeout]] * 40
        server.resume()
        assert list(await timed(store, Read(key), limit=2.0)) == [Found(b"old", version)]
        await store.aclose()


async def test_it_works_again_once_the_server_is_back(valkey: Server) -> None:
    async with FaultyWire(valkey.port) as wire:
        port, store = wire.port, RedisStore(wire.url)
        key, version = await present(store)
        assert await one(store, Read(key)) == Found(b"old", version)
    for _ in range(3):
        assert kinds(await timed(store, Read(key))) == [StoreUnavailable]
        assert kinds(await timed(store, write(key, expect=version))) in ([StoreUnavailable], [WriteUncertain])
    async with FaultyWire(valkey.port, listen=port):
        assert list(await timed(store, Read(key))) == [Found(b"old", version)]
        assert list(await timed(store, write(key, expect=version))) == [Written()]
        await store.aclose()


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
    with servers.valkey("--user", "app", "on", ">hunter2secret", "~mine:*", "+get") as server:
        store = RedisStore(f"redis://app:hunter2secret@127.0.0.1:{server.port}")
        outcomes = await timed(store, Read("mine:a"), Read("yours:a"), write("mine:b", expect=ABSENT))
        assert outcomes[0] == Missing()
        for outcome in outcomes[1:]:
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
    short, long, other = await timed(store, Read(name + ":short"), Read(name + ":long"), Read(name + ":list"))
    assert isinstance(short, Found)
    assert short.value == b""
    assert long == Found(b"89", Version(b"01234567"))
    assert type(error_of(other)) is StoreUnavailable
    for suffix in (":short", ":long"):
        assert isinstance(await one(store, write(name + suffix, expect=ABSENT)), Conflict)
        assert isinstance(await one(store, write(name + suffix, expect=short.version)), Conflict)
    assert type(error_of(await one(store, write(name + ":list", expect=ABSENT)))) is StoreUnavailable
    await store.aclose()


async def test_no_error_shows_a_key_or_a_value(valkey: Server) -> None:
    shown = list[str]()
    for fault in (silent, hangs_up, answer_lost, says(b"$x\r\n"), says(b"-WRONGTYPE MY-KEY MY-VALUE\r\n")):
        async with behind(valkey, then=fault) as (store, _):
            for operation in (
                Read("MY-KEY"),
                write("MY-KEY", b"MY-VALUE", expect=ABSENT),
                write("MY-KEY", b"MY-VALUE", expect=ANYTHING),
            ):
                (outcome,) = await timed(store, operation, limit=0.1)
                if isinstance(outcome, Failed):
                    assert isinstance(outcome.error, StoreError)
                    shown += [str(outcome), repr(outcome), str(outcome.error), repr(outcome.error)]
                    assert outcome.error.__cause__ is None
    assert len(shown) >= 4 * 13
    for text in shown:
        assert "MY-" not in text


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


async def test_the_end_of_the_invocation_is_a_deadline_too(valkey: Server) -> None:
    async def called_near_the_end(store: Store) -> Sequence[Outcome]:
        set_invocation_end(0.2)
        return await timed(store, Read("a"), limit=30.0)

    async with behind(valkey, then=silent) as (store, _):
        begun = time.monotonic()
        assert kinds(await asyncio.create_task(called_near_the_end(store))) == [StoreTimeout]
        assert time.monotonic() - begun < 0.2 + SLACK


async def test_without_any_limit_a_call_takes_a_second(valkey: Server) -> None:
    async with behind(valkey, then=silent) as (store, _):
        begun = time.monotonic()
        assert kinds(await store.perform(Read("a"))) == [StoreTimeout]
        assert 0.9 < time.monotonic() - begun < 1.0 + SLACK


@pytest.mark.parametrize("limit", [0.0, -1.0])
async def test_no_time_left_is_an_outcome_at_once(valkey: Server, limit: float) -> None:
    async with behind(valkey, then=silent) as (store, _):
        outcomes = await timed(store, *every_kind(), limit=limit)
        assert all(isinstance(error_of(outcome), StoreTimeout | WriteUncertain) for outcome in outcomes)


async def test_too_large_is_refused_before_anything_is_sent(direct: RedisStore) -> None:
    store = RedisStore(f"redis://127.0.0.1:{closed_port()}")
    store.limits = Limits(largest_value_bytes=1000)
    (outcome,) = await timed(store, write("a", bytes(1001), expect=ABSENT))
    assert kinds([outcome]) == [ValueTooLarge]


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
