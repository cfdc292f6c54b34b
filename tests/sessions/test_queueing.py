"""The queue of savers: whose turn it is, who is passed over, and what a turn foresees of the store's answers."""

import asyncio
import itertools
import threading
from collections.abc import Iterator

import pytest

from serverless_session import SharedState
from serverless_session.errors import StoreUnavailable
from serverless_session.records.records import Kept, Records
from serverless_session.sessions.queueing import SaveQueue, Turn
from serverless_session.stores import (
    ABSENT,
    ANYTHING,
    Conflict,
    Delete,
    Failed,
    MemoryStore,
    Missing,
    Operation,
    Read,
    Version,
    Write,
    Written,
    new_version,
)
from serverless_session.testing import ManualClock
from tests.sessions.apps import SECRET

LONG = 60.0
"""Seconds of patience that no test uses up."""

CLOCK = ManualClock(1_000_000.0)


async def turn_of(queue: SaveQueue, key: str = "a", *, patience: float = LONG) -> Turn:
    return await queue.turn(key, CLOCK, patience=patience)


async def settle() -> None:
    """Let every task go on as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


class Savers:
    """Tasks that take their turn, note it, and leave when they are told to."""

    def __init__(self, queue: SaveQueue) -> None:
        self.queue = queue
        self.had_their_turn: list[str] = []
        self._done: dict[str, asyncio.Event] = {}

    async def come(self, name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(self._save(name))
        await settle()
        return task

    def let_go(self, name: str) -> None:
        self._done.setdefault(name, asyncio.Event()).set()

    async def _save(self, name: str) -> None:
        turn = await turn_of(self.queue)
        try:
            self.had_their_turn.append(name)
            await self._done.setdefault(name, asyncio.Event()).wait()
        finally:
            turn.leave()


# --- turns ------------------------------------------------------------------------------------------------------------


async def test_turns_come_in_the_order_in_which_savers_came_and_one_at_a_time() -> None:
    savers = Savers(SaveQueue())
    names = ["first", "second", "third", "fourth"]
    tasks = [await savers.come(name) for name in names]
    for number, name in enumerate(names, 1):
        assert savers.had_their_turn == names[:number]
        savers.let_go(name)
        await settle()
    await asyncio.gather(*tasks)


async def test_lines_of_different_keys_do_not_wait_for_each_other() -> None:
    queue = SaveQueue()
    async with asyncio.timeout(LONG):
        turns = [await turn_of(queue, key) for key in "abc"]
    assert len(queue._lines) == 3
    for turn in turns:
        turn.leave()


async def test_whose_patience_ends_goes_on_without_a_turn_and_is_passed_over() -> None:
    queue = SaveQueue()
    savers = Savers(queue)
    first = await savers.come("first")
    impatient = await turn_of(queue, patience=0.01)
    last = await savers.come("last")
    assert savers.had_their_turn == ["first"]
    version = new_version()
    impatient.learn(Write("a", b"", ttl=60, version=version, expect=ABSENT), Written())
    assert impatient.foresee(Write("a", b"", ttl=60, version=new_version(), expect=ABSENT)) is None, "it knows nothing"
    impatient.leave()  # and gives away no turn that it has not
    await settle()
    assert savers.had_their_turn == ["first"]
    savers.let_go("first")
    savers.let_go("last")
    await asyncio.gather(first, last)
    assert savers.had_their_turn == ["first", "last"]
    assert not queue._lines


async def test_a_turn_is_left_once_however_often_it_is_said() -> None:
    queue = SaveQueue()
    turn = await turn_of(queue)
    turn.leave()
    savers = Savers(queue)
    first, second = [await savers.come(name) for name in ("first", "second")]
    turn.leave()
    await settle()
    assert savers.had_their_turn == ["first"]
    savers.let_go("first")
    savers.let_go("second")
    await asyncio.gather(first, second)


async def test_a_cancelled_waiter_is_passed_over() -> None:
    """THREATS 41."""
    savers = Savers(SaveQueue())
    tasks = [await savers.come(name) for name in ("first", "gone", "third")]
    tasks[1].cancel()
    await settle()
    assert tasks[1].cancelled()
    savers.let_go("first")
    savers.let_go("third")
    await asyncio.gather(tasks[0], tasks[2])
    assert savers.had_their_turn == ["first", "third"]
    assert not savers.queue._lines


async def test_a_waiter_that_is_cancelled_in_the_moment_of_its_turn_hands_it_on() -> None:
    """THREATS 41: it was called, and cancelled before it could go on."""
    savers = Savers(SaveQueue())
    turn = await turn_of(savers.queue)
    called, third = [await savers.come(name) for name in ("called", "third")]
    turn.leave()
    called.cancel()
    await settle()
    assert called.cancelled()
    assert savers.had_their_turn == ["third"]
    savers.let_go("third")
    await third
    assert not savers.queue._lines


async def test_a_cancelled_holder_frees_the_line() -> None:
    """THREATS 41."""
    savers = Savers(SaveQueue())
    holder, waiter = [await savers.come(name) for name in ("holder", "waiter")]
    holder.cancel()
    await settle()
    assert savers.had_their_turn == ["holder", "waiter"]
    savers.let_go("waiter")
    await waiter
    with pytest.raises(asyncio.CancelledError):
        await holder
    assert not savers.queue._lines


async def test_cancelled_at_any_moment_nobody_stays_in_line() -> None:
    """THREATS 41: every waiter of a line of four, cancelled after every number of the loop's steps."""
    for victim in range(4):
        for steps in range(12):
            savers = Savers(SaveQueue())
            for name in "0123":
                savers.let_go(name)
            tasks = [asyncio.create_task(savers._save(name)) for name in "0123"]
            for _ in range(steps):
                await asyncio.sleep(0)
            tasks[victim].cancel()
            await asyncio.wait(tasks)
            others = [name for place, name in enumerate("0123") if place != victim]
            assert [name for name in savers.had_their_turn if name in others] == others
            assert not savers.queue._lines


async def test_a_line_stands_only_while_somebody_is_in_it() -> None:
    queue = SaveQueue()
    for number in range(100):
        turn = await turn_of(queue, f"key-{number}")
        assert len(queue._lines) == 1
        turn.leave()
        assert not queue._lines


def test_loops_in_two_threads_do_not_meet() -> None:
    """A future of one loop must never be set by another, and nobody waits for what another loop may never do."""
    queue, both_have_one = SaveQueue(), threading.Barrier(2, timeout=LONG)
    failures: list[BaseException] = []

    async def take_turns() -> None:
        turn = await turn_of(queue, patience=0.01)
        version = new_version()
        turn.learn(Write("a", b"", ttl=60, version=version, expect=ABSENT), Written())
        await asyncio.to_thread(both_have_one.wait)
        assert turn.foresee(Delete("a", expect=version)) is None, "each knows what it has learned itself"
        assert turn.foresee(Delete("a", expect=new_version())) is not None, "it holds the line"
        turn.leave()

    def run() -> None:
        try:
            asyncio.run(take_turns())
        except BaseException as error:  # noqa: BLE001 - it is raised in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert not failures
    assert not queue._lines


# --- what is foreseen -------------------------------------------------------------------------------------------------

OURS, OTHER = new_version(), new_version()


def operations(key: str) -> Iterator[Operation]:
    """Every kind of operation on one key, with every expectation."""
    yield Read(key)
    for expect in (ABSENT, ANYTHING, OURS, OTHER):
        for version in (OURS, OTHER, new_version()):
            yield Write(key, b"value", ttl=60, version=version, expect=expect)
        if expect is not ABSENT:
            yield Delete(key, expect=expect)


async def record_of(stands: Version | None) -> tuple[Records, str]:
    """Records over a store of their own, and a key under which something stands, or nothing does."""
    records = SharedState(MemoryStore(clock=CLOCK), secret_key=SECRET, clock=CLOCK).records("session")
    key = records.key(b"one")
    if stands is not None:
        await records.perform(Write(key, b"value", ttl=60, version=stands, expect=ABSENT))
    return records, key


@pytest.mark.parametrize("stands", [None, OURS], ids=["nothing", "something"])
async def test_what_is_foreseen_is_what_the_store_would_have_answered(stands: Version | None) -> None:
    """For every operation after every other: nothing is foreseen but refusals, and every refusal that can be is."""
    foreseen, how_many = 0, len(list(operations("any")))
    for place, then in itertools.product(range(how_many), repeat=2):
        records, key = await record_of(stands)
        first, second = (list(operations(key))[number] for number in (place, then))
        turn = await turn_of(SaveQueue(), key)
        turn.learn(first, (await records.perform(first))[0])
        before = turn.foresee(second)
        turn.leave()
        (answer,) = await records.perform(second)
        assert before in (None, answer), (first, second)
        if isinstance(first, Read) or isinstance(second, Read) or second.expect is ANYTHING:
            continue  # a saver has read before it came, and no feature expects anything
        if isinstance(answer, Conflict | Missing):
            assert before == answer, (first, second)
            foreseen += 1
    assert foreseen > 50


async def test_of_other_keys_nothing_is_foreseen_or_learned() -> None:
    turn = await turn_of(SaveQueue())
    write = Write("b", b"", ttl=60, version=OURS, expect=ABSENT)
    turn.learn(write, Written())
    for operation in (*operations("a"), *operations("b")):
        assert turn.foresee(operation) is None
    turn.leave()


async def test_after_a_failure_nothing_is_foreseen() -> None:
    turn = await turn_of(SaveQueue())
    turn.learn(Write("a", b"", ttl=60, version=OURS, expect=ABSENT), Written())
    assert turn.foresee(Delete("a", expect=OTHER)) is not None
    turn.learn(Delete("a", expect=OURS), Failed(StoreUnavailable("it is down")))
    for operation in operations("a"):
        assert turn.foresee(operation) is None, "it may be there, and it may not"
    turn.leave()


async def test_what_has_expired_is_not_foreseen() -> None:
    clock = ManualClock(1_000_000.0)
    turn = await SaveQueue().turn("a", clock, patience=LONG)
    turn.learn(Write("a", b"value", ttl=60, version=OURS, expect=ABSENT), Written())
    again = Write("a", b"new", ttl=60, version=OTHER, expect=ABSENT)
    assert turn.foresee(again) == Conflict(Kept(b"value", OURS, ends_at=1_000_060.0))
    clock.advance(59)
    assert turn.foresee(again) is not None
    clock.advance(1)
    assert turn.foresee(again) is None, "the store would take it now"
    turn.leave()


async def test_the_next_in_line_knows_what_the_one_before_has_learned() -> None:
    queue = SaveQueue()
    first = await turn_of(queue)
    waiting = asyncio.create_task(turn_of(queue))
    await settle()
    first.learn(Write("a", b"value", ttl=60, version=OURS, expect=ABSENT), Written())
    first.leave()
    second = await waiting
    assert second.foresee(Delete("a", expect=OTHER)) == Conflict(Kept(b"value", OURS, ends_at=1_000_060.0))
    second.leave()
    later = await turn_of(queue)
    assert later.foresee(Delete("a", expect=OTHER)) is None, "a line that was empty has forgotten"
    later.leave()
