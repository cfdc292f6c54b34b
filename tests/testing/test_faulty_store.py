"""A store that fails as a test tells it to: nothing done, done and not told, done too late; one operation at a time."""

import asyncio
import gc
import math
import random
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from serverless_session import SharedState
from serverless_session.deadline import time_left, within
from serverless_session.errors import StoreError, StoreTimeout, StoreUnavailable, ValueTooLarge, WriteUncertain
from serverless_session.stores import (
    ABSENT,
    ANYTHING,
    Conflict,
    Delete,
    Deleted,
    Failed,
    Found,
    MemoryStore,
    Missing,
    Operation,
    Outcome,
    Read,
    Store,
    Write,
    Written,
    new_version,
)
from serverless_session.testing import FaultyStore, StoreConformance
from serverless_session.testing.operations import new_key, one, present, write
from tests.sessions.apps import SECRET, app_over


class TestWithoutFaults(StoreConformance):
    async def open_store(self) -> Store:
        return FaultyStore(MemoryStore())


class TestWithDelays(StoreConformance):
    """A slow store keeps the contract too, and what was cancelled lands late."""

    increments, storm_calls, examples = 20, 1_000, 10

    async def open_store(self) -> Store:
        store = FaultyStore(MemoryStore())
        store.delay((0, 0.002))
        return store


def faulty(**options: int) -> tuple[FaultyStore, MemoryStore]:
    """A faulty store, and the store behind it."""
    memory = MemoryStore()
    return FaultyStore(memory, **options), memory


def kind(outcome: Outcome) -> type:
    """The outcome's class, or that of its error."""
    return type(outcome.error if isinstance(outcome, Failed) else outcome)


async def kinds(store: Store, *operations: Operation) -> list[type]:
    return [kind(outcome) for outcome in await store.perform(*operations)]


async def a_call(memory: Store) -> list[Operation]:
    """A read that finds, a write that lands, a delete that deletes."""
    (here, _), (doomed, version) = await present(memory), await present(memory)
    return [Read(here), write(new_key(), expect=ABSENT), Delete(doomed, expect=version)]


DONE = [Found, Written, Deleted]


# --- failures ---------------------------------------------------------------------------------------------------------


async def test_what_fails_was_not_done() -> None:
    store, memory = faulty()
    operations = await a_call(memory)
    for error in (StoreUnavailable, StoreTimeout):
        store.heal()
        store.fail(error)
        assert await kinds(store, *operations) == [error] * 3
        for operation in operations:
            assert await kinds(store, operation) == [error]
    assert await kinds(memory, *operations) == DONE
    assert store.injected.failed == 12


async def test_conveniences_raise_and_the_error_says_that_it_was_injected() -> None:
    store, _ = faulty()
    store.fail()
    with pytest.raises(StoreUnavailable, match="a fault was injected") as error:
        await store.read("MY-KEY")
    assert "MY-KEY" not in str(error.value)
    store.heal()
    store.lose_answers()
    with pytest.raises(WriteUncertain, match="a fault was injected"):
        await store.write("MY-KEY", b"", ttl=60, version=new_version(), expect=ABSENT)
    with pytest.raises(StoreTimeout, match="a fault was injected"):
        await store.read("MY-KEY")


async def test_a_fault_may_be_for_some_kinds_of_operations_only() -> None:
    store, memory = faulty()
    store.fail(on=Write)
    assert await kinds(store, *await a_call(memory)) == [Found, StoreUnavailable, Deleted]
    store.heal()
    store.fail(on=(Read, Delete))
    assert await kinds(store, *await a_call(memory)) == [StoreUnavailable, Written, StoreUnavailable]


async def test_one_operation_of_a_call_fails_and_the_others_are_done() -> None:
    store, memory = faulty()
    store.fail(after=1, times=1)
    operations = await a_call(memory)
    assert await kinds(store, *operations) == [Found, StoreUnavailable, Deleted]
    assert await kinds(memory, operations[1], operations[2]) == [Written, Missing]


async def test_faults_read_as_a_script() -> None:
    store, _ = faulty()
    store.fail(StoreTimeout, times=2)
    store.lose_answers(times=1)
    store.fail(after=1, times=1)
    told = [(await kinds(store, write(new_key(), expect=ABSENT)))[0] for _ in range(6)]
    assert told == [StoreTimeout, StoreTimeout, WriteUncertain, Written, StoreUnavailable, Written]
    assert (store.injected.failed, store.injected.lost) == (3, 1)


async def test_heal_ends_all_faults() -> None:
    store, memory = faulty()
    store.fail()
    store.lose_answers()
    store.delay(1)
    store.at_random(fail=1)
    store.heal()
    assert await kinds(store, *await a_call(memory)) == DONE


async def test_too_large_and_wrong_use_are_what_they_are_under_any_fault() -> None:
    store, _ = faulty()
    too_large = write(new_key(), bytes(store.limits.largest_value_bytes + 1), expect=ABSENT)
    faults: list[Callable[[], None]] = [store.fail, store.lose_answers, lambda: store.delay(60)]
    for inject in faults:
        inject()
        assert await kinds(store, too_large) == [ValueTooLarge], "it is decided before anything is sent"
        with pytest.raises(ValueError, match="must differ"):
            await store.perform(Read("a"), Read("a"))
        with within(0.01):
            assert (await kinds(store, Read("a"), too_large))[1] is ValueTooLarge
        store.heal()


# --- lost answers -----------------------------------------------------------------------------------------------------


async def test_what_was_lost_is_done_and_nobody_is_told() -> None:
    store, memory = faulty()
    read, written, deleted = await a_call(memory)
    store.lose_answers()
    assert await kinds(store, read, written, deleted) == [StoreTimeout, WriteUncertain, WriteUncertain]
    assert isinstance(written, Write)
    assert await one(memory, Read(written.key)) == Found(b"new", written.version)
    assert await one(memory, deleted) == Missing()
    assert store.injected.lost == 3


async def test_sending_again_settles_what_was_lost() -> None:
    store, _ = faulty()
    store.lose_answers(times=1)
    operation = write(new_key(), expect=ABSENT)
    assert await kinds(store, operation) == [WriteUncertain]
    assert await kinds(store, operation) == [Written]


async def test_what_was_lost_may_never_be_done() -> None:
    store, memory = faulty()
    operations = await a_call(memory)
    store.lose_answers(done=False)
    assert await kinds(store, *operations) == [StoreTimeout, WriteUncertain, WriteUncertain]
    assert await kinds(memory, *operations) == DONE


async def test_whether_what_was_lost_is_done_may_be_left_to_dice() -> None:
    store, memory = faulty(seed=1)
    store.lose_answers(done=None)
    operations = [write(new_key(), expect=ABSENT) for _ in range(40)]
    assert await kinds(store, *operations) == [WriteUncertain] * 40
    stand = sum(isinstance(outcome, Found) for outcome in await memory.perform(*(Read(op.key) for op in operations)))
    assert 10 < stand < 30


async def test_a_lost_write_may_land_after_its_outcome() -> None:
    store, memory = faulty()
    store.lose_answers(late=0.05)
    operation = write(new_key(), expect=ABSENT)
    assert await kinds(store, operation) == [WriteUncertain]
    assert await one(memory, Read(operation.key)) == Missing()
    deadline = time.monotonic() + 5
    while await one(memory, Read(operation.key)) == Missing():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert store.injected.landed == 1


async def test_what_is_late_lands_when_the_test_says_so_in_its_order() -> None:
    store, memory = faulty()
    key = new_key()
    store.lose_answers(late=(100, 200), times=1)
    store.lose_answers(late=math.inf, times=1)
    store.lose_answers(late=timedelta(seconds=50), times=1)
    last, never, first = (write(key, value, expect=ANYTHING) for value in (b"3", b"4", b"1"))
    for operation in (last, never, first):
        assert await kinds(store, operation) == [WriteUncertain]
    assert await kinds(store, write(key, b"before", expect=ABSENT)) == [Written]
    await store.land()
    assert await one(memory, Read(key)) == Found(b"4", never.version), "expecting anything, each overwrites"
    assert store.injected.landed == 3
    await store.land()
    assert store.injected.landed == 3


async def test_a_late_write_is_refused_where_another_one_has_won() -> None:
    store, memory = faulty()
    key, version = await present(memory)
    store.lose_answers(late=60, times=1)
    late, theirs = write(key, b"late", expect=version), write(key, b"theirs", expect=version)
    assert await kinds(store, late) == [WriteUncertain]
    assert await kinds(store, theirs) == [Written]
    await store.land()
    assert await one(memory, Read(key)) == Found(b"theirs", theirs.version)


class Punctual(MemoryStore):
    """Does nothing for a caller who has no time left."""

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        if time_left() <= 0:
            return [Failed(StoreTimeout("no time was left", seconds=0)) for _ in operations]
        return await super().perform(*operations)


async def test_what_lands_late_is_bound_to_nobodys_deadline() -> None:
    memory = Punctual()
    store = FaultyStore(memory)
    store.lose_answers(late=0.05, times=1)
    store.lose_answers(late=60, times=1)
    by_itself, told_to = write(new_key(), expect=ABSENT), write(new_key(), expect=ABSENT)
    with within(0.02):
        assert await kinds(store, by_itself, told_to) == [WriteUncertain] * 2
    deadline = time.monotonic() + 5
    while not store.injected.landed:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    with within(-1):
        await store.land()
    assert await kinds(memory, Read(by_itself.key), Read(told_to.key)) == [Found, Found]


async def test_of_what_is_lost_and_late_only_what_is_done_lands() -> None:
    store, memory = faulty(seed=1)
    store.lose_answers(done=None, late=60)
    operations = [write(new_key(), expect=ABSENT) for _ in range(40)]
    assert await kinds(store, *operations) == [WriteUncertain] * 40
    await store.land()
    stand = sum(isinstance(outcome, Found) for outcome in await memory.perform(*(Read(op.key) for op in operations)))
    assert 10 < stand == store.injected.landed < 30


# --- delays -----------------------------------------------------------------------------------------------------------


async def test_a_delayed_call_is_answered_later() -> None:
    store, memory = faulty()
    store.delay(0.05, times=1)
    store.delay((0.01, 0.02), on=Delete)
    begun = time.monotonic()
    assert await kinds(store, *await a_call(memory)) == DONE
    assert time.monotonic() - begun >= 0.05
    assert store.injected.delayed == 2


async def test_a_delay_longer_than_the_deadline_ends_at_the_deadline() -> None:
    store, memory = faulty()
    read, written, deleted = await a_call(memory)
    store.delay(60)
    begun = time.monotonic()
    with within(0.05):
        assert await kinds(store, read, written, deleted) == [StoreTimeout, WriteUncertain, WriteUncertain]
    took = time.monotonic() - begun
    assert 0.05 <= took < 1
    assert await one(memory, Read(written.key)) == Missing()
    await store.land()
    assert await kinds(memory, Read(written.key), Read(deleted.key)) == [Found, Missing]
    assert store.injected.landed == 2, "a read that nobody waits for is nothing"


async def test_a_write_that_missed_its_deadline_lands_when_its_delay_is_over() -> None:
    store, memory = faulty()
    store.delay(0.1)
    operation, begun = write(new_key(), expect=ABSENT), time.monotonic()
    with within(0.02):
        assert await kinds(store, operation) == [WriteUncertain]
    while await one(memory, Read(operation.key)) == Missing():
        assert time.monotonic() < begun + 5
        await asyncio.sleep(0.01)
    assert time.monotonic() - begun >= 0.09


async def test_a_store_that_hangs_costs_each_call_its_deadline() -> None:
    store, memory = faulty()
    store.delay(math.inf)
    for limit in (0.02, 0.0, -1.0):
        with within(limit):
            assert await kinds(store, *await a_call(memory)) == [StoreTimeout, WriteUncertain, WriteUncertain]


async def test_the_store_behind_gets_the_time_that_is_left() -> None:
    inner = FaultyStore(MemoryStore())
    store = FaultyStore(inner)
    inner.delay(math.inf)
    store.delay(0.9)
    begun = time.monotonic()
    assert await kinds(store, Read("a")) == [StoreTimeout]
    assert 1.0 <= time.monotonic() - begun < 1.8, "without a limit, one second in all"


async def test_what_fails_is_delayed_as_well_and_then_uncertain_past_the_deadline() -> None:
    store, memory = faulty()
    store.delay(0.05)
    store.fail()
    begun = time.monotonic()
    assert await kinds(store, Read("a")) == [StoreUnavailable]
    assert time.monotonic() - begun >= 0.05
    operation = write(new_key(), expect=ABSENT)
    with within(0.01):
        assert await kinds(store, operation) == [WriteUncertain], "who waits no longer cannot know that it failed"
    await store.land()
    assert await one(memory, Read(operation.key)) == Missing()


async def test_a_call_that_is_cancelled_is_cancelled_and_what_has_left_lands() -> None:
    store, memory = faulty()
    store.delay(60)
    operation = write(new_key(), expect=ABSENT)
    call = asyncio.ensure_future(store.perform(operation, Read("a")))
    await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await one(memory, Read(operation.key)) == Missing()
    await store.land()
    assert await one(memory, Read(operation.key)) == Found(b"new", operation.version)


# --- closing, loops ---------------------------------------------------------------------------------------------------


async def test_what_is_late_when_the_store_is_closed_never_lands() -> None:
    store, memory = faulty()
    store.lose_answers(late=0.01, times=1)
    operation = write(new_key(), expect=ABSENT)
    assert await kinds(store, operation) == [WriteUncertain]
    await store.aclose()
    await asyncio.sleep(0.05)
    await store.land()
    assert await one(memory, Read(operation.key)) == Missing()
    assert await kinds(store, operation) == [Written], "it opens anew"


async def test_closing_ends_what_is_just_landing() -> None:
    inner = FaultyStore(MemoryStore())
    store = FaultyStore(inner)
    store.lose_answers(late=0.001, times=1)
    inner.delay(0.95)
    assert await kinds(store, write(new_key(), expect=ABSENT)) == [WriteUncertain]
    await asyncio.sleep(0.05)
    begun = time.monotonic()
    await store.aclose()
    assert time.monotonic() - begun < 0.7


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_loop_that_ends_before_a_late_write_lands_says_nothing(
    by_hand: bool, caplog: pytest.LogCaptureFixture
) -> None:
    store, _ = faulty()

    async def leave_something() -> None:
        store.lose_answers(late=60, times=1)
        store.delay(60, times=2)
        with within(0.01):
            await store.perform(write(new_key(), expect=ABSENT))
            await store.perform(write(new_key(), expect=ABSENT))

    if by_hand:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(leave_something())
        loop.close()
    else:
        asyncio.run(leave_something())
    gc.collect()
    asyncio.run(store.land())
    asyncio.run(store.aclose())
    assert not caplog.records


def test_closing_in_one_loop_leaves_what_is_late_in_another() -> None:
    store, memory = faulty()
    store.lose_answers(late=60, times=2)
    operations = [write(new_key(), expect=ABSENT), write(new_key(), expect=ABSENT)]
    loops = [asyncio.new_event_loop(), asyncio.new_event_loop()]
    for loop, operation in zip(loops, operations, strict=True):
        assert loop.run_until_complete(kinds(store, operation)) == [WriteUncertain]
    loops[0].run_until_complete(store.aclose())
    loops[1].run_until_complete(store.land())
    reads = [Read(operation.key) for operation in operations]
    assert loops[1].run_until_complete(kinds(memory, *reads)) == [Missing, Found]
    for loop in loops:
        loop.close()


# --- dice -------------------------------------------------------------------------------------------------------------


async def storm(store: FaultyStore, count: int = 200) -> list[type]:
    return [
        (await kinds(store, operation))[0]
        for _ in range(count)
        for operation in (Read("a"), write(new_key(), expect=ABSENT))
    ]


async def test_faults_at_random_are_as_frequent_as_was_asked() -> None:
    store, _ = faulty(seed=7)
    store.at_random(fail=0.2, lose=0.3)
    told = await storm(store)
    assert set(told) == {StoreUnavailable, StoreTimeout, WriteUncertain, Missing, Written}
    assert 40 < told.count(StoreUnavailable) == store.injected.failed < 120
    assert 80 < told.count(StoreTimeout) + told.count(WriteUncertain) == store.injected.lost < 160


async def test_two_faults_that_are_certain_together_share_what_comes() -> None:
    store, _ = faulty(seed=7)
    store.at_random(fail=0.5, lose=0.5)
    told = await storm(store, 100)
    assert set(told) == {StoreUnavailable, StoreTimeout, WriteUncertain}
    assert 50 < told.count(StoreUnavailable) < 150


async def test_an_outcome_that_was_told_is_true_whatever_the_dice_say() -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    store, memory = faulty(seed=seed)
    store.at_random(fail=0.2, lose=0.3, delay=(0, 0.001), late=(0, 0.01))
    writes = [write(new_key(), b"%d" % number, expect=ABSENT) for number in range(200)]
    told = await asyncio.gather(*(one(store, operation) for operation in writes))
    await store.land()
    for operation, outcome in zip(writes, told, strict=True):
        stands = await one(memory, Read(operation.key))
        if outcome == Written():
            assert stands == Found(operation.value, operation.version)
        elif kind(outcome) is StoreUnavailable:
            assert stands == Missing()
        else:
            assert kind(outcome) is WriteUncertain


async def test_the_same_seed_gives_the_same_faults() -> None:
    runs = []
    for seed in (3, 3, 4):
        store, _ = faulty(seed=seed)
        store.at_random(fail=0.3, lose=0.3)
        runs.append(await storm(store, 50))
    assert runs[0] == runs[1] != runs[2]


def test_the_seed_is_told_and_nothing_that_is_kept() -> None:
    store, _ = faulty()
    assert repr(store) == f"FaultyStore(MemoryStore(...), seed={store.seed})"
    assert faulty()[0].seed != store.seed
    assert faulty(seed=5)[0].seed == 5


@pytest.mark.parametrize(
    "inject",
    [
        lambda store: store.delay(-1),
        lambda store: store.delay((2, 1)),
        lambda store: store.delay(math.nan),
        lambda store: store.lose_answers(done=False, late=1),
        lambda store: store.at_random(fail=0.6, lose=0.6),
        lambda store: store.at_random(fail=-0.1),
    ],
)
def test_faults_that_cannot_be_are_refused(inject: Callable[[FaultyStore], None]) -> None:
    with pytest.raises(ValueError, match=r"duration|never done|probabilities"):
        inject(faulty()[0])


@pytest.mark.parametrize("error", [WriteUncertain, ValueTooLarge, StoreError, OSError])
def test_what_may_have_been_done_is_no_failure(error: type[StoreUnavailable]) -> None:
    with pytest.raises(TypeError, match="lose_answers"):
        faulty()[0].fail(error)


# --- an app over it ---------------------------------------------------------------------------------------------------


def visitor(store: FaultyStore, timeout: float = 1.0) -> TestClient:
    """A browser whose user is logged in."""
    client = TestClient(app_over(SharedState(store, secret_key=SECRET, timeout=timeout)), base_url="https://testserver")
    client.post("/update", json={"user": "ann"})
    return client


def test_an_app_over_a_dead_store_answers_503_until_it_is_back() -> None:
    store, _ = faulty()
    client = visitor(store)
    store.fail(StoreUnavailable)
    for answer in (client.get("/view"), client.post("/update", json={"a": 1})):
        assert answer.status_code == 503
        assert "set-cookie" not in answer.headers
    assert client.cookies
    store.heal()
    assert client.get("/view").json() == {"user": "ann"}


def test_an_app_over_a_store_that_reads_and_cannot_write_answers_503_to_changes_only() -> None:
    store, _ = faulty()
    client = visitor(store)
    store.fail(on=Write)
    assert client.get("/view").json() == {"user": "ann"}
    assert client.post("/update", json={"a": 1}).status_code == 503
    store.heal()
    assert client.get("/view").json() == {"user": "ann"}


def test_an_app_over_a_store_that_hangs_answers_503_within_its_timeout() -> None:
    store, _ = faulty()
    client = visitor(store, timeout=0.1)
    store.delay(math.inf)
    begun = time.monotonic()
    assert client.get("/view").status_code == 503
    assert time.monotonic() - begun < 1


def test_a_change_whose_answer_was_lost_is_503_or_settled_and_never_half_there() -> None:
    store, _ = faulty()
    client = visitor(store)
    store.lose_answers(on=Write, times=1)
    answer = client.post("/update", json={"a": 1})
    seen = client.get("/view").json()
    assert (answer.status_code, seen) in [(200, {"user": "ann", "a": 1}), (503, {"user": "ann", "a": 1})]


def test_a_logged_out_session_is_not_brought_back_by_a_write_that_lands_late() -> None:
    store, _ = faulty()
    with visitor(store) as client:
        stolen = dict(client.cookies)
        store.lose_answers(on=Write, late=math.inf)
        client.post("/update", json={"late": True})
        store.heal()
        assert client.post("/clear").status_code == 200
        assert store.injected.landed == 0
        client.portal.call(store.land)  # type: ignore[union-attr]
        assert store.injected.lost == store.injected.landed > 0
        client.cookies.update(stolen)
        assert client.get("/view").json() == {}


async def test_a_conflict_is_lost_like_any_other_answer() -> None:
    store, memory = faulty()
    key, version = await present(memory)
    store.lose_answers(times=1)
    operation = write(key, expect=ABSENT)
    assert await kinds(store, operation) == [WriteUncertain]
    assert await one(store, operation) == Conflict(Found(b"old", version))


@pytest.mark.parametrize("on", ["Write", (Write, "Read"), StoreUnavailable, None])
def test_a_kind_of_operation_that_is_none_is_refused(on: Any) -> None:
    with pytest.raises(TypeError, match="on= takes Read, Write, Delete"):
        FaultyStore(MemoryStore()).fail(on=on)


def test_an_error_is_given_as_its_class() -> None:
    with pytest.raises(TypeError, match="the class StoreUnavailable or StoreTimeout"):
        FaultyStore(MemoryStore()).fail(StoreUnavailable("x"))  # type: ignore[arg-type]
