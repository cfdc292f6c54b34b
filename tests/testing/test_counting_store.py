"""A store that counts: what a feature asked, how often, and how many bytes of values went there and back."""

from serverless_session.stores import ABSENT, ANYTHING, Delete, MemoryStore, Missing, Read, Store, Written
from serverless_session.testing import CountingStore, StoreConformance
from serverless_session.testing.operations import new_key, one, write


class TestCountingStore(StoreConformance):
    increments, storm_calls, examples = 20, 1_000, 10

    async def open_store(self) -> Store:
        return CountingStore(MemoryStore())


async def test_calls_and_operations_are_counted_apart() -> None:
    store = CountingStore(MemoryStore())
    first = write(new_key(), b"12345", expect=ABSENT)
    assert await one(store, first) == Written()
    outcomes = await store.perform(Read(new_key()), Read(first.key), Delete(new_key(), expect=ANYTHING))
    assert outcomes[0] == Missing()
    assert (store.calls, store.reads, store.writes, store.deletes) == (2, 2, 1, 1)
    assert [type(operation) for operation in store.operations] == [type(first), Read, Read, Delete]


async def test_bytes_are_counted_both_ways_a_conflicts_too() -> None:
    store = CountingStore(MemoryStore())
    first = write(new_key(), b"12345", expect=ABSENT)
    await store.perform(first)
    assert (store.sent_bytes, store.received_bytes) == (5, 0)
    await store.perform(write(first.key, b"123", expect=ABSENT))
    assert (store.sent_bytes, store.received_bytes) == (8, 5)
    await store.perform(Read(first.key), Read(new_key()))
    assert (store.sent_bytes, store.received_bytes) == (8, 10)


async def test_reset_begins_anew_and_the_store_keeps_what_it_has() -> None:
    store = CountingStore(MemoryStore())
    first = write(new_key(), b"12345", expect=ABSENT)
    await store.perform(first, Read(new_key()))
    store.reset()
    counted = (store.calls, store.reads, store.writes, store.deletes, store.sent_bytes, store.received_bytes)
    assert counted == (0, 0, 0, 0, 0, 0)
    assert store.operations == []
    assert await one(store, Read(first.key)) != Missing()


async def test_the_limits_are_those_of_the_store() -> None:
    memory = MemoryStore(capacity_bytes=100_000)
    assert CountingStore(memory).limits is memory.limits
