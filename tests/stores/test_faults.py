"""Every networked store when things go wrong: each call ends in its time, and says no more and no less than it knows.

Faults happen on a wire in front of a real server, or to the server. That each outcome is right is checked over a
connection of its own. What each store makes of each fault is the table of `fault_table`; here it is carried out, and
what takes more than one call to show follows.
"""

import asyncio
import gc
import importlib.util
import threading
import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import pytest

from serverless_session.deadline import set_invocation_end, within
from serverless_session.errors import StoreError, StoreTimeout, StoreUnavailable, ValueTooLarge, WriteUncertain
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
    Store,
    Version,
    Write,
    Written,
    links,
    new_version,
)
from serverless_session.testing.operations import new_key, one, present, write
from tests.servers import Server
from tests.stores.fault_table import (
    ROWS,
    Row,
    Suffered,
    suffer,
)
from tests.stores.faults import (
    Behaviour,
    FaultyWire,
    Link,
    after,
    answer_lost,
    answer_never_comes,
    hangs_up,
    says,
    silent,
    trickles,
)
from tests.stores.networked import (
    LIMIT,
    MEMCACHED,
    NETWORKED,
    SLACK,
    VALKEY,
    Networked,
    closed_port,
    error_of,
    every_kind,
    kinds,
    timed,
)


@pytest.fixture(params=NETWORKED, ids=lambda networked: networked.name)
def networked(request: pytest.FixtureRequest) -> Networked:
    param: Networked = request.param
    return param


@pytest.fixture
def server(networked: Networked, request: pytest.FixtureRequest) -> Server:
    server: Server = request.getfixturevalue("memcached" if networked.is_memcached else "valkey")
    return server


@pytest.fixture(autouse=True)
def _nothing_is_left_to_the_collector() -> Iterator[None]:
    """A connection that was not closed warns when it is collected, and a warning is an error here."""
    yield
    gc.collect()


# --- the table --------------------------------------------------------------------------------------------------------


def cases() -> list[object]:
    return [
        pytest.param(networked, row, id=f"{row.name}-{networked.name}")
        for row in ROWS
        for networked in NETWORKED
        if row.only in (None, networked.scheme)
    ]


@pytest.mark.parametrize(("networked", "row"), cases())
async def test_each_fault_has_the_outcome_that_is_known(
    networked: Networked, row: Row, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue("memcached" if networked.is_memcached else "valkey")
    await carry_out(row, networked, server)


@pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed")
@pytest.mark.parametrize("row", [row for row in ROWS if row.only in (None, "redis")], ids=lambda row: row.name)
def test_each_fault_has_it_under_uvloop_too(row: Row, valkey: Server) -> None:
    """uvicorn runs it where it is installed. Memcached's sockets are none of the loop's."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(carry_out(row, VALKEY, valkey))


async def carry_out(row: Row, networked: Networked, server: Server) -> None:
    """Strike each kind of operation, and check what it answers, what stands then, and that the store works again."""

    async def one_kind(kind: str) -> Suffered:
        async with row.fault(networked, server) as scene:
            suffered = await suffer(scene, kind, row.limit)
            if scene.direct is not None:
                await agrees(scene.direct, suffered)
            if scene.heal is not None:
                await scene.heal()
                with within(row.limit):
                    fresh = write(new_key(), expect=ABSENT)
                    assert await one(scene.store, fresh) == Written(), "it works again"
                    assert await one(scene.store, Read(fresh.key)) == Found(b"new", fresh.version)
            return suffered

    expected = row.expected(networked)
    if networked.inline or not row.may_run_side_by_side:
        happened = [await one_kind(kind) for kind in expected]
    else:
        happened = await asyncio.gather(*(one_kind(kind) for kind in expected))
    assert {kind: suffered.word for kind, suffered in zip(expected, happened, strict=True)} == expected
    for suffered in happened:
        assert suffered.took < row.limit + 4 * SLACK  # six at once, on a machine that does other things too
        assert suffered.connections is None or suffered.connections <= 2, "sent once, and at most once more"


async def agrees(direct: Store, suffered: Suffered) -> None:
    """What stands there now is what the outcome says."""
    stands = await one(direct, Read(suffered.operation.key))
    match suffered.operation, suffered.outcome:
        case Write(value=value, version=version), Written():
            assert stands == Found(value, version)
        case Delete(), Deleted() | Missing():
            assert stands == Missing()
        case Write(version=version, expect=expect), Failed(error=StoreUnavailable()):
            assert not isinstance(stands, Found) or stands.version != version, "nothing was written"
            assert expect is ABSENT or isinstance(stands, Found), "nor was anything removed"


# --- what is known of each operation, cold ----------------------------------------------------------------------------


async def test_a_silent_server_leaves_only_uncertain_what_was_sent(networked: Networked, server: Server) -> None:
    """Without a number, Memcached is asked first: that read was not answered, so nothing can have been written."""
    looks = networked.is_memcached
    operations: list[tuple[Operation, type]] = [
        (Read(new_key()), StoreTimeout),
        (write(new_key(), expect=ABSENT), WriteUncertain),
        (write(new_key(), expect=ABSENT, look_first=True), StoreTimeout if looks else WriteUncertain),
        (write(new_key(), expect=new_version()), StoreTimeout if looks else WriteUncertain),
        (Delete(new_key(), expect=new_version()), StoreTimeout if looks else WriteUncertain),
        (write(new_key(), expect=ANYTHING), WriteUncertain),
        (Delete(new_key(), expect=ANYTHING), WriteUncertain),
    ]
    async with networked.behind(server, then=silent) as (store, wire):
        for operation, error in operations:
            before = wire.connections
            assert kinds(await timed(store, operation, limit=0.1)) == [error]
            assert wire.connections - before <= 2, "sent once, and once more"
        outcomes = await timed(store, *every_kind(), limit=0.1)
        assert kinds(outcomes) == ([StoreTimeout] * 5 if looks else [StoreTimeout] + [WriteUncertain] * 4)
        assert "0.10 s" in str(error_of(outcomes[0]))


async def test_a_second_trip_that_is_lost_is_settled_too(networked: Networked, server: Server) -> None:
    """On Memcached the read that comes first was answered, and then the write was lost."""
    async with networked.to(server) as direct:
        for fault, gone in ((hangs_up, Deleted()), (answer_lost, Missing())):
            behaviour = after(1, fault) if networked.is_memcached else fault
            key, version = await present(direct)
            async with networked.behind(server, behaviour) as (store, wire):
                mine = write(key, expect=version)
                assert list(await timed(store, mine)) == [Written()]
                assert wire.connections == 2
            assert await one(direct, Read(key)) == Found(b"new", mine.version)
            async with networked.behind(server, behaviour) as (store, wire):
                assert list(await timed(store, Delete(key, expect=mine.version))) == [gone]
                assert wire.connections == 2


async def test_the_conveniences_raise_what_the_outcome_says(networked: Networked, server: Server) -> None:
    async with networked.behind(server, then=silent) as (store, _):
        with within(0.2), pytest.raises(StoreTimeout):
            await store.read("a")
        with within(0.2), pytest.raises(WriteUncertain):
            await store.write("a", b"", ttl=1, version=new_version(), expect=ABSENT)
        with within(0.2), pytest.raises(WriteUncertain):
            await store.delete("a", expect=ANYTHING)


async def test_every_kind_at_once_is_unavailable_where_nobody_listens(networked: Networked) -> None:
    store = networked.store(f"x://127.0.0.1:{closed_port()}")
    assert kinds(await timed(store, *every_kind())) == [StoreUnavailable] * 5
    await store.aclose()


# --- what a second copy meets -----------------------------------------------------------------------------------------


async def test_a_refusal_whose_answer_was_lost_stays_uncertain(networked: Networked, server: Server) -> None:
    """What the second copy meets may have come after the first had landed: it proves nothing."""
    async with networked.to(server) as direct:
        key, version = await present(direct)
        async with networked.behind(server, answer_lost) as (store, _):
            assert kinds(await timed(store, write(key, expect=ABSENT))) == [WriteUncertain]
        for operation in (write(key, expect=new_version()), Delete(key, expect=new_version())):
            async with networked.behind(server, answer_lost) as (store, _):
                (outcome,) = await timed(store, operation)
                if networked.is_memcached:  # it was a look whose answer was lost, and nothing has been sent
                    assert outcome == Conflict(Found(b"old", version))
                else:
                    assert kinds([outcome]) == [WriteUncertain]
        assert await one(direct, Read(key)) == Found(b"old", version)


def overtaken_by(networked: Networked, server: Server, operation: Operation) -> Behaviour:
    """The first copy is carried out, and then somebody's operation, before the answer is lost."""

    async def overtaken(link: Link) -> None:
        await link.ask(await link.request())
        async with networked.to(server) as theirs:
            assert isinstance(await one(theirs, operation), Written | Deleted)

    return after(1, overtaken)


async def read_by(store: Store, key: str) -> Version:
    found = await one(store, Read(key))
    assert isinstance(found, Found)
    return found.version


async def test_a_second_copy_that_meets_somebody_elses_version_is_uncertain(
    networked: Networked, server: Server
) -> None:
    async with networked.to(server) as direct:
        key, _ = await present(direct)
        theirs = write(key, b"theirs", expect=ANYTHING)
        async with networked.behind(server, overtaken_by(networked, server, theirs)) as (store, wire):
            mine = write(key, b"mine", expect=await read_by(store, key))
            assert kinds(await timed(store, mine)) == [WriteUncertain]
            assert wire.connections == 2
        assert await one(direct, Read(key)) == Found(b"theirs", theirs.version), "and theirs stands"


async def test_a_second_copy_that_meets_nothing_is_uncertain(networked: Networked, server: Server) -> None:
    async with networked.to(server) as direct:
        key, _ = await present(direct)
        gone = Delete(key, expect=ANYTHING)
        async with networked.behind(server, overtaken_by(networked, server, gone)) as (store, _):
            mine = write(key, b"mine", expect=await read_by(store, key))
            assert kinds(await timed(store, mine)) == [WriteUncertain]
        assert await one(direct, Read(key)) == Missing()


@pytest.mark.parametrize("kind", ["create", "write", "delete"])
async def test_a_first_copy_that_lands_late_changes_nothing(networked: Networked, server: Server, kind: str) -> None:
    """THREATS 3, 39. Why a second copy settles what a read could not: its success moves the version."""
    may_land, has_landed = threading.Event(), threading.Event()
    late = list[bytes]()

    async def delayed(link: Link) -> None:
        request = await link.request()
        await asyncio.to_thread(may_land.wait, 5.0)
        late.append(await link.ask(request))
        has_landed.set()

    async with networked.to(server) as direct:
        key = new_key() if kind == "create" else (await present(direct))[0]
        async with networked.behind(server, after(1, delayed)) as (store, _):
            before = await one(store, Read(key))
            mine: Write | Delete
            if kind == "delete":
                assert isinstance(before, Found)
                mine = Delete(key, expect=before.version)
                assert list(await timed(store, mine)) == [Deleted()]
                theirs = write(key, b"theirs", expect=ABSENT)
            else:
                mine = write(key, b"mine", expect=before.version if isinstance(before, Found) else ABSENT)
                assert list(await timed(store, mine)) == [Written()]
                theirs = write(key, b"theirs", expect=mine.version)
            assert await one(direct, theirs) == Written()
            may_land.set()
            assert await asyncio.to_thread(has_landed.wait, 5.0)
        assert late[0].startswith((b"EXISTS", b"NOT_STORED")) if networked.is_memcached else b"theirs" in late[0]
        assert await one(direct, Read(key)) == Found(b"theirs", theirs.version)


async def test_what_expects_anything_is_never_sent_again(networked: Networked, server: Server) -> None:
    for operation in (write(new_key(), expect=ANYTHING), Delete(new_key(), expect=ANYTHING)):
        for fault in (answer_lost, hangs_up, answer_never_comes):
            async with networked.behind(server, fault) as (store, wire):
                assert kinds(await timed(store, operation, limit=0.2)) == [WriteUncertain]
                assert wire.connections == 1


async def test_half_an_answer_is_no_answer(networked: Networked, server: Server) -> None:
    async with networked.to(server) as direct:
        key, version = await present(direct, b"v" * 1000)
    for cut_at in (1, 10, 500, 1000):

        async def cut(link: Link, cut_at: int = cut_at) -> None:
            link.answer((await link.ask(await link.request()))[:cut_at])

        async with networked.behind(server, cut) as (store, wire):
            assert list(await timed(store, Read(key))) == [Found(b"v" * 1000, version)]
            assert wire.connections == 2


JUNK = {
    "redis": [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$x\r\n", b":1.5\r\n", b"\r\n", b"*1\r\n$9z\r\n"],
    "memcached": [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\r\n",
        b"+PONG\r\n",
        b"VALUE\r\n",
        b"VALUE a b c d\r\n",
        b"VALUE somebody-elses 0 9 1\r\n12345678x\r\nEND\r\n",
        b"\xff\xfe\r\n",
    ],
}


async def test_a_server_that_speaks_something_else_is_an_outcome_too(networked: Networked, server: Server) -> None:
    for junk in JUNK[networked.scheme]:
        async with networked.behind(server, then=says(junk)) as (store, _):
            for operation in every_kind():
                error = error_of((await timed(store, operation, limit=0.2))[0])
                was_sent = not isinstance(operation, Read)
                if networked.is_memcached and isinstance(operation, Delete) and operation.expect is not ANYTHING:
                    was_sent = False
                assert isinstance(error, WriteUncertain if was_sent else StoreUnavailable), junk


async def test_no_error_shows_a_key_or_a_value(networked: Networked, server: Server) -> None:
    shown = list[str]()
    refusals = {
        "redis": [b"$x\r\n", b"-WRONGTYPE MY-KEY MY-VALUE\r\n"],
        "memcached": [
            b"VALUE MY-KEY 0 x\r\n",
            b"SERVER_ERROR MY-KEY MY-VALUE\r\n",
            b"CLIENT_ERROR MY-KEY\r\n",
            b"ERROR\r\n",
        ],
    }
    for fault in (silent, hangs_up, answer_lost, *(says(answer) for answer in refusals[networked.scheme])):
        async with networked.behind(server, then=fault) as (store, _):
            for operation in (
                Read("MY-KEY"),
                write("MY-KEY", b"MY-VALUE", expect=ABSENT),
                write("MY-KEY", b"MY-VALUE", expect=ANYTHING),
                Delete("MY-KEY", expect=ANYTHING),
                Delete("MY-KEY", expect=new_version()),
            ):
                (outcome,) = await timed(store, operation, limit=0.1)
                if isinstance(outcome, Failed):
                    assert isinstance(outcome.error, StoreError)
                    shown += [str(outcome), repr(outcome), str(outcome.error), repr(outcome.error)]
                    assert outcome.error.__cause__ is None
    assert len(shown) >= 4 * 20
    for text in shown:
        assert "MY-" not in text


# --- servers that stop, and come back ---------------------------------------------------------------------------------


async def test_a_stopped_server_costs_each_call_its_deadline_and_no_more(networked: Networked) -> None:
    with networked.start() as server:
        async with networked.to(server) as store:
            key, version = await present(store)
            server.pause()
            outcomes = await timed(store, Read(key))
            outcomes = [*outcomes, *await timed(store, write(new_key(), expect=ABSENT))]
            assert kinds(outcomes) == [StoreTimeout, WriteUncertain]
            if not networked.inline:  # there, one waits for the other
                begun = time.monotonic()
                many = await asyncio.gather(*(timed(store, Read(key)) for _ in range(40)))
                assert time.monotonic() - begun < LIMIT + SLACK
                assert [kinds(outcomes) for outcomes in many] == [[StoreTimeout]] * 40
            server.resume()
            assert list(await timed(store, Read(key), limit=1.0)) == [Found(b"old", version)]


async def test_what_a_stopped_server_does_when_it_goes_on_changes_nothing_newer(networked: Networked) -> None:
    """THREATS 39: SIGSTOP in the middle of a write, SIGCONT, a newer write: the newer stands."""
    with networked.start() as server:
        async with networked.to(server) as store, networked.to(server) as other:
            key, _ = await present(store)
            mine = write(key, b"mine", expect=await read_by(store, key))
            server.pause()
            assert kinds(await timed(store, mine, limit=0.1)) == [WriteUncertain]
            server.resume()
            newer = write(key, b"newer", expect=await read_by(other, key))
            outcome = await one(other, newer)
            await asyncio.sleep(0.1)
            if outcome == Written():
                assert await one(other, Read(key)) == Found(b"newer", newer.version)
            else:  # mine had not landed yet when the other one looked: then it refuses the newer one
                assert isinstance(outcome, Conflict)
                assert await one(other, Read(key)) == Found(b"mine", mine.version)


async def test_it_works_again_once_the_way_is_free(networked: Networked, server: Server) -> None:
    async with FaultyWire(server.port, scheme=networked.scheme) as wire:
        port, store = wire.port, networked.store(wire.url)
        key, version = await present(store)
        assert await one(store, Read(key)) == Found(b"old", version)
    for _ in range(3):
        assert kinds(await timed(store, Read(key))) == [StoreUnavailable]
        assert kinds(await timed(store, write(key, expect=version))) == [StoreUnavailable]
    async with FaultyWire(server.port, listen=port, scheme=networked.scheme):
        assert list(await timed(store, Read(key))) == [Found(b"old", version)]
        assert list(await timed(store, write(key, expect=version))) == [Written()]
        await store.aclose()


async def test_a_claim_outlives_no_restart_and_its_holder_is_told(networked: Networked) -> None:
    """THREATS 4: killed and restarted between claim and write, taken by somebody else meanwhile."""
    with networked.start() as server:
        async with networked.to(server) as store:
            key = new_key()
            assert await one(store, write(key, b"mine", expect=ABSENT)) == Written()
            mine = await read_by(store, key)
            server.kill()
            assert kinds(await timed(store, write(key, expect=mine))) == [StoreUnavailable]
            with networked.start(port=server.port):
                theirs = write(key, b"theirs", expect=ABSENT)
                async with networked.to(server) as other:
                    assert await one(other, theirs) == Written()
                for late in (write(key, b"late", expect=mine), Delete(key, expect=mine)):
                    assert list(await timed(store, late)) == [Conflict(Found(b"theirs", theirs.version))]


# --- idle connections -------------------------------------------------------------------------------------------------


async def test_idle_flows_dropped_without_a_word_cost_one_call_half_its_time(
    networked: Networked, server: Server
) -> None:
    """THREATS 33. All the idle ones are let go with the first, so that the next calls do not pay again."""
    async with networked.to(server) as direct:
        key, version = await present(direct)
    dropped = threading.Event()

    async def dropped_at_once(link: Link) -> None:
        while not dropped.is_set():
            request = await link.request()
            await asyncio.sleep(0.05)  # so that the other calls need connections of their own
            if not dropped.is_set():
                link.answer(await link.ask(request))
        await silent(link)

    async with networked.behind(server, then=dropped_at_once) as (store, wire):
        await asyncio.gather(*(one(store, Read(key)) for _ in range(4)))
        opened = wire.connections
        assert opened == (1 if networked.inline else 4), "inline, one call waits for the other"
        dropped.set()
        wire.heal()
        begun = time.monotonic()
        assert await one(store, Read(key)) == Found(b"old", version)
        assert 0.4 < time.monotonic() - begun < 1.0 + SLACK, "with the default deadline"
        begun = time.monotonic()
        written = await asyncio.gather(*(one(store, write(new_key(), expect=ANYTHING)) for _ in range(4)))
        assert written == [Written()] * 4, "although none of them can be sent again"
        assert time.monotonic() - begun < SLACK
        assert opened < wire.connections <= opened + 4


async def test_after_minutes_of_sleep_every_connection_is_reopened(
    networked: Networked, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with networked.behind(server, after(1, silent)) as (store, wire):
        await one(store, Read("a"))
        for jump in (300.0, -300.0):
            opened = wire.connections
            now = time.time() + jump
            monkeypatch.setattr(links, "time", SimpleNamespace(time=lambda now=now: now))
            assert list(await timed(store, write(new_key(), expect=ANYTHING))) == [Written()], "never sent again"
            assert wire.connections == opened + 1


async def test_an_end_that_came_while_the_loop_stood_still_is_noticed(networked: Networked) -> None:
    """A sandbox that thaws calls before its loop has had a turn."""
    with networked.start() as server:
        async with networked.to(server) as store:
            await one(store, Read("a"))
            server.kill()
            with networked.start(port=server.port):  # no await since the server was killed
                assert list(await timed(store, write(new_key(), expect=ANYTHING))) == [Written()], "never sent again"


# --- deadlines --------------------------------------------------------------------------------------------------------


async def test_the_end_of_the_invocation_is_a_deadline_too(networked: Networked, server: Server) -> None:
    async def called_near_the_end(store: Store) -> Sequence[Outcome]:
        set_invocation_end(0.2)
        return await timed(store, Read("a"), limit=30.0)

    async with networked.behind(server, then=silent) as (store, _):
        begun = time.monotonic()
        assert kinds(await asyncio.create_task(called_near_the_end(store))) == [StoreTimeout]
        assert time.monotonic() - begun < 0.2 + SLACK


@pytest.mark.parametrize("fault", [silent, trickles], ids=["silent", "a byte each 20 ms"])
async def test_without_any_limit_a_call_takes_a_second(networked: Networked, server: Server, fault: Behaviour) -> None:
    async with networked.to(server) as direct:
        key, _ = await present(direct, b"v" * 1000)
    async with networked.behind(server, then=fault) as (store, wire):
        begun = time.monotonic()
        assert kinds(await store.perform(Read(key))) == [StoreTimeout]
        assert 0.9 < time.monotonic() - begun < 1.0 + SLACK
        assert wire.connections == 2


@pytest.mark.parametrize("limit", [0.0, -1.0])
async def test_no_time_left_is_an_outcome_at_once(networked: Networked, server: Server, limit: float) -> None:
    async with networked.behind(server, then=silent) as (store, _):
        for operation in every_kind():
            (outcome,) = await timed(store, operation, limit=limit)
            assert isinstance(error_of(outcome), StoreTimeout | WriteUncertain)
        assert len(await timed(store, *every_kind(), limit=limit)) == 5


async def test_too_large_is_refused_before_anything_is_sent(networked: Networked) -> None:
    store = networked.store(f"x://127.0.0.1:{closed_port()}")
    store.limits = Limits(largest_value_bytes=1000)
    (outcome,) = await timed(store, write("a", bytes(1001), expect=ABSENT))
    assert kinds([outcome]) == [ValueTooLarge]
    await store.aclose()


async def test_a_name_that_hangs_costs_the_time_to_connect_and_says_so() -> None:
    """0.3 s to connect, and no word of seconds that were not spent."""
    row = next(row for row in ROWS if row.name == "DNS hangs")
    for networked in NETWORKED:
        async with row.fault(networked, None) as scene:  # type: ignore[arg-type]
            suffered = await suffer(scene, "create", 4.0)
        assert suffered.took < 0.3 + 2 * SLACK
        assert "could not be connected" in str(suffered.error)


async def test_calls_in_threads_wait_for_a_name_together_and_the_threads_are_free_again() -> None:
    row = next(row for row in ROWS if row.name == "DNS hangs")
    async with row.fault(MEMCACHED, None) as scene:  # type: ignore[arg-type]
        begun = time.monotonic()
        many = await asyncio.gather(*(timed(scene.store, Read(new_key()), limit=0.4) for _ in range(20)))
        assert time.monotonic() - begun < 0.4 + SLACK
        assert all(isinstance(error_of(outcome), StoreUnavailable) for (outcome,) in many)
        assert sum(thread.name == "getaddrinfo" for thread in threading.enumerate()) <= 3, "not one for each call"
