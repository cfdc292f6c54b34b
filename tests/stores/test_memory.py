"""What the memory store promises beyond the contract: bounds in bytes, nothing kept for longer than needed, threads."""

import asyncio
import sys
import threading
import tracemalloc
from collections.abc import Iterator

import pytest

from serverless_session.errors import ValueTooLarge
from serverless_session.stores import (
    ABSENT,
    ANYTHING,
    Found,
    MemoryStore,
    Missing,
    Read,
    Version,
    Write,
    Written,
    new_version,
)
from serverless_session.stores.memory import ENTRY_BYTES
from serverless_session.testing import ManualClock
from serverless_session.testing.conformance.races import increment
from serverless_session.testing.operations import new_key

VALUE = bytes(100)


def holding(entries: int, *, clock: ManualClock | None = None) -> MemoryStore:
    """A store with room for so many entries of `VALUE`."""
    return MemoryStore(capacity_bytes=entries * (ENTRY_BYTES + len(VALUE)), clock=clock)


async def put(store: MemoryStore, *keys: str, ttl: float = 60.0, value: bytes = VALUE) -> None:
    for key in keys:
        await store.write(key, value, ttl=ttl, version=new_version(), expect=ANYTHING)


async def kept(store: MemoryStore, *keys: str) -> str:
    """Those of the keys that are still there. Asking makes them the most recently used, in this order."""
    outcomes = await store.perform(*(Read(key) for key in keys))
    return "".join(key for key, outcome in zip(keys, outcomes, strict=True) if isinstance(outcome, Found))


async def test_the_least_recently_used_leaves_first() -> None:
    store = holding(3)
    await put(store, "a", "b", "c", "d")
    assert await kept(store, "a", "b", "c", "d") == "bcd"
    await put(store, "e")
    assert await kept(store, "b", "c", "d", "e") == "cde"


async def test_reading_and_being_in_the_way_are_uses() -> None:
    store = holding(3)
    await put(store, "a", "b", "c")
    await store.read("a")
    await store.write("b", VALUE, ttl=60, version=new_version(), expect=ABSENT)
    await put(store, "d")
    assert await kept(store, "a", "b", "c", "d") == "abd"


async def test_what_has_expired_leaves_before_what_is_least_recently_used() -> None:
    clock = ManualClock()
    store = holding(3, clock=clock)
    await put(store, "a")
    await put(store, "b", ttl=1)
    await put(store, "c")
    await store.read("b")
    clock.advance(2)
    await put(store, "d")
    assert await kept(store, "a", "b", "c", "d") == "acd"


async def test_the_bound_is_in_bytes() -> None:
    store = holding(10)
    await put(store, *"abcdefghij")
    await put(store, "x", value=bytes(3 * (ENTRY_BYTES + len(VALUE)) - ENTRY_BYTES))
    assert await kept(store, *"abcdefghijx") == "defghijx"


async def test_one_value_may_fill_the_store_and_none_can_be_larger() -> None:
    store = MemoryStore(capacity_bytes=10_000)
    await put(store, "a", "b")
    await put(store, "x", value=bytes(10_000 - ENTRY_BYTES))
    assert await kept(store, "a", "b", "x") == "x"
    with pytest.raises(ValueTooLarge):
        await put(store, "y", value=bytes(10_000 - ENTRY_BYTES + 1))
    assert await kept(store, "x") == "x"


async def test_writing_deleting_and_writing_again_loses_no_room() -> None:
    store = holding(3)
    for _ in range(50):
        await put(store, "a")
        await put(store, "a", value=b"")
        await store.delete("a", expect=ANYTHING)
    await put(store, "a", "b", "c")
    assert await kept(store, "a", "b", "c") == "abc"


async def test_an_entry_written_anew_outlives_its_first_end() -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    await put(store, "a", ttl=10)
    clock.advance(5)
    await put(store, "a", ttl=10)
    clock.advance(7)
    await put(store, "b")
    assert await kept(store, "a", "b") == "ab"


async def test_a_write_sent_again_outlives_its_first_end() -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    again = Write("a", VALUE, ttl=10, version=new_version(), expect=ABSENT)
    await store.perform(again)
    clock.advance(5)
    await store.perform(again)
    clock.advance(7)
    await put(store, "b")
    assert await kept(store, "a", "b") == "ab"


async def test_an_entry_written_anew_for_a_shorter_time_ends_sooner() -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    await put(store, "a", ttl=100)
    await put(store, "a", ttl=1)
    clock.advance(1)
    assert await store.read("a") == Missing()


async def test_an_entry_lives_up_to_its_end_and_not_at_it() -> None:
    clock = ManualClock(1_000_000.0)
    store = MemoryStore(clock=clock)
    await put(store, "a", ttl=8)
    clock.advance(7.5)
    assert await kept(store, "a") == "a"
    clock.advance(0.5)
    assert await store.read("a") == Missing()


async def test_expired_entries_take_no_memory() -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    await put(store, *(f"warm:{number}" for number in range(100)), ttl=1)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for turn in range(20):
            clock.advance(2)
            await put(store, *(f"{turn}:{number}" for number in range(100)), ttl=1, value=bytes(10_000))
        clock.advance(2)
        await put(store, "last")
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 200_000, "of 20 MB written"


async def test_an_entry_rewritten_forever_takes_no_more_memory() -> None:
    store = MemoryStore()
    await put(store, "a", ttl=86_400)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(5_000):
            await put(store, "a", ttl=86_400)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 50_000


async def test_what_an_entry_costs_is_what_it_is_counted_for() -> None:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        store = MemoryStore()
        for number in range(5_000):
            key = f"{number:>043}".replace(" ", "0")
            await store.write(key, VALUE + b"%d" % number, ttl=60, version=new_version(), expect=ABSENT)
        each = (tracemalloc.get_traced_memory()[0] - before) / 5_000
    finally:
        tracemalloc.stop()
    assert each < 1.5 * (ENTRY_BYTES + len(VALUE))


@pytest.fixture
def impatient_threads() -> Iterator[None]:
    """Threads take turns after every few instructions, so that a missing lock shows."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("impatient_threads")
def test_loops_in_several_threads_lose_no_increment() -> None:
    store, key = MemoryStore(), new_key()
    threads, tasks, times = 4, 4, 150
    start = threading.Barrier(threads)
    errors = list[BaseException]()

    async def race() -> None:
        await asyncio.gather(*(increment(store, key, times=times) for _ in range(tasks)))

    def run() -> None:
        start.wait()
        try:
            asyncio.run(race())
        except BaseException as error:
            errors.append(error)
            raise

    asyncio.run(store.write(key, b"0", ttl=60, version=new_version(), expect=ABSENT))
    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert not errors
    found = asyncio.run(store.read(key))
    assert isinstance(found, Found)
    assert int(found.value) == threads * tasks * times


@pytest.mark.usefixtures("impatient_threads")
def test_threads_claim_once() -> None:
    store, wins = MemoryStore(), list[Version]()
    start = threading.Barrier(8)

    def claim() -> None:
        start.wait()
        for turn in range(200):
            operation = Write(f"claim:{turn}", b"", ttl=60, version=new_version(), expect=ABSENT)

            async def perform(operation: Write = operation) -> None:
                (outcome,) = await store.perform(operation)
                if outcome == Written():
                    wins.append(operation.version)

            # No loop is needed: a call to this store never waits.
            with pytest.raises(StopIteration):
                perform().send(None)

    running = [threading.Thread(target=claim) for _ in range(8)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert len(wins) == 200


async def test_it_says_that_it_is_one_process_and_may_forget() -> None:
    assert MemoryStore().limits.one_process
    assert MemoryStore().limits.may_forget
