"""How many trips each operation takes on each store: what the tests assert and the documentation shows.

`python -m tests.stores.trips` prints the table of docs/reference/stores.md.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from serverless_session.stores import ABSENT, ANYTHING, Delete, Found, Operation, Read, Store, Version
from serverless_session.testing.operations import new_key, one, present, write

STORES = ["Redis, Valkey", "Memcached"]

Prepare = Callable[[Store, Store], Awaitable[list[Operation]]]
"""Makes the operations of one call to the first store. The second reaches the same server, and is another process."""


@dataclass(frozen=True, slots=True)
class Row:
    """`trips`: of the one call, in the order of `STORES`, over a connection that is open."""

    name: str
    prepare: Prepare
    trips: tuple[int, int]


async def found_by(store: Store, key: str) -> Version:
    """The version under `key`, as `store` has read it last."""
    found = await one(store, Read(key))
    assert isinstance(found, Found)
    return found.version


async def read_hit(store: Store, other: Store) -> list[Operation]:
    key, _ = await present(other)
    return [Read(key)]


async def read_miss(store: Store, other: Store) -> list[Operation]:
    return [Read(new_key())]


async def five_reads(store: Store, other: Store) -> list[Operation]:
    return [Read((await present(other))[0]) for _ in range(5)]


async def create(store: Store, other: Store) -> list[Operation]:
    return [write(new_key(), expect=ABSENT)]


async def create_refused(store: Store, other: Store) -> list[Operation]:
    key, _ = await present(other)
    return [write(key, expect=ABSENT)]


async def look_and_create(store: Store, other: Store) -> list[Operation]:
    return [write(new_key(), expect=ABSENT, look_first=True)]


async def look_and_create_refused(store: Store, other: Store) -> list[Operation]:
    key, _ = await present(other)
    return [write(key, expect=ABSENT, look_first=True)]


async def write_what_was_read(store: Store, other: Store) -> list[Operation]:
    key, _ = await present(other)
    return [write(key, expect=await found_by(store, key))]


async def write_what_was_written(store: Store, other: Store) -> list[Operation]:
    key, version = await present(store)
    return [write(key, expect=version)]


async def write_overtaken(store: Store, other: Store) -> list[Operation]:
    key, version = await present(other)
    read = await found_by(store, key)
    await one(other, write(key, b"theirs", expect=version))
    return [write(key, expect=read)]


async def write_what_is_gone(store: Store, other: Store) -> list[Operation]:
    key, version = await present(other)
    read = await found_by(store, key)
    await one(other, Delete(key, expect=version))
    return [write(key, expect=read)]


async def write_again(store: Store, other: Store) -> list[Operation]:
    key, version = await present(other)
    operation = write(key, expect=version)
    await one(other, operation)
    return [operation]


async def write_anything(store: Store, other: Store) -> list[Operation]:
    return [write(new_key(), expect=ANYTHING)]


async def delete_what_was_read(store: Store, other: Store) -> list[Operation]:
    key, _ = await present(other)
    return [Delete(key, expect=await found_by(store, key))]


async def delete_what_was_written(store: Store, other: Store) -> list[Operation]:
    key, version = await present(store)
    return [Delete(key, expect=version)]


async def delete_overtaken(store: Store, other: Store) -> list[Operation]:
    key, version = await present(other)
    read = await found_by(store, key)
    await one(other, write(key, b"theirs", expect=version))
    return [Delete(key, expect=read)]


async def delete_what_is_gone(store: Store, other: Store) -> list[Operation]:
    key, version = await present(other)
    await one(other, Delete(key, expect=version))
    return [Delete(key, expect=version)]


async def delete_anything(store: Store, other: Store) -> list[Operation]:
    key, _ = await present(other)
    return [Delete(key, expect=ANYTHING)]


async def three_creations(store: Store, other: Store) -> list[Operation]:
    return [write(new_key(), expect=ABSENT) for _ in range(3)]


async def create_and_read(store: Store, other: Store) -> list[Operation]:
    return [write(new_key(), expect=ABSENT), *[Read((await present(other))[0]) for _ in range(3)]]


async def write_and_delete_what_was_read(store: Store, other: Store) -> list[Operation]:
    keys = [(await present(other))[0] for _ in range(2)]
    versions = [await found_by(store, key) for key in keys]
    return [write(keys[0], expect=versions[0]), Delete(keys[1], expect=versions[1])]


ROWS = [
    Row("read, found", read_hit, (1, 1)),
    Row("read, missing", read_miss, (1, 1)),
    Row("5 reads in one call", five_reads, (1, 1)),
    Row("create (expects absence)", create, (1, 1)),
    Row("create, something stands there", create_refused, (1, 2)),
    Row("create with `look_first`", look_and_create, (1, 2)),
    Row("create with `look_first`, something stands there", look_and_create_refused, (1, 1)),
    Row("write over the version that was read", write_what_was_read, (1, 1)),
    Row("write over the version that was written", write_what_was_written, (1, 2)),
    Row("write, overtaken by another", write_overtaken, (1, 2)),
    Row("write, gone meanwhile", write_what_is_gone, (1, 1)),
    Row("write sent again by another process", write_again, (1, 1)),
    Row("write, whatever stands there", write_anything, (1, 1)),
    Row("delete the version that was read", delete_what_was_read, (1, 1)),
    Row("delete the version that was written", delete_what_was_written, (1, 2)),
    Row("delete, overtaken by another", delete_overtaken, (1, 2)),
    Row("delete, gone meanwhile", delete_what_is_gone, (1, 1)),
    Row("delete, whatever stands there", delete_anything, (1, 1)),
    Row("3 creations in one call", three_creations, (1, 3)),
    Row("create and read 3 others in one call", create_and_read, (1, 2)),
    Row("write one and delete another that were read, in one call", write_and_delete_what_was_read, (1, 2)),
]


def table() -> str:
    """The rows as Markdown."""
    head = ["| one call | " + " | ".join(STORES) + " |", "|---|" + "--:|" * len(STORES)]
    return "\n".join([*head, *(f"| {row.name} | " + " | ".join(map(str, row.trips)) + " |" for row in ROWS)])


if __name__ == "__main__":
    print(table())
