"""What every store must do, as plain checks: each takes a store, asserts, and leaves nothing behind that matters.

Nothing here knows a particular store or pytest. Keys are random, so checks share a server with anybody. A store whose
server expires late is given the 2 s that the contract allows.
"""

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterable

from serverless_session.deadline import within
from serverless_session.errors import ValueTooLarge
from serverless_session.stores import (
    ABSENT,
    ANYTHING,
    Conflict,
    Delete,
    Deleted,
    Expected,
    Failed,
    Found,
    Missing,
    Operation,
    Outcome,
    Read,
    Store,
    Version,
    Write,
    Written,
    new_version,
)

Check = Callable[[Store], Awaitable[None]]

MINUTE = 60.0
LATEST_EXPIRY = 2.0


def new_key() -> str:
    return f"conformance:{os.urandom(12).hex()}"


async def one(store: Store, operation: Operation) -> Outcome:
    """The outcome of a call of one operation."""
    (outcome,) = await store.perform(operation)
    return outcome


async def present(store: Store, value: bytes = b"old", *, ttl: float = MINUTE) -> tuple[str, Version]:
    """A key under which `value` stands, and its version."""
    key, version = new_key(), new_version()
    assert await one(store, Write(key, value, ttl=ttl, version=version, expect=ABSENT)) == Written()
    return key, version


async def expired(store: Store, count: int) -> list[tuple[str, Version]]:
    """Keys under which something stood that has expired, and its versions."""
    stood = [await present(store, ttl=0.01) for _ in range(count)]
    give_up_at = time.monotonic() + LATEST_EXPIRY + 0.5
    while any(outcome != Missing() for outcome in await store.perform(*(Read(key) for key, _ in stood))):
        assert time.monotonic() < give_up_at, "a value was still returned 2 s after its ttl"
        await asyncio.sleep(0.01)
    return stood


def write(key: str, value: bytes = b"new", *, expect: Expected, look_first: bool = False, ttl: float = MINUTE) -> Write:
    return Write(key, value, ttl=ttl, version=new_version(), expect=expect, look_first=look_first)


# --- each operation x {absent, present, expired, wrong version} -------------------------------------------------------


async def check_read(store: Store) -> None:
    assert await one(store, Read(new_key())) == Missing()
    key, version = await present(store)
    assert await one(store, Read(key)) == Found(b"old", version)
    ((gone, _),) = await expired(store, 1)
    assert await one(store, Read(gone)) == Missing()


async def check_write_that_expects_absence(store: Store) -> None:
    ((gone, _), (gone_too, _)) = await expired(store, 2)
    for look_first, free in ((False, gone), (True, gone_too), (False, new_key()), (True, new_key())):
        operation = write(free, expect=ABSENT, look_first=look_first)
        assert await one(store, operation) == Written()
        assert await one(store, Read(free)) == Found(b"new", operation.version)
    key, version = await present(store)
    for look_first in (False, True):
        refused = await one(store, write(key, expect=ABSENT, look_first=look_first))
        assert refused == Conflict(Found(b"old", version))
    assert await one(store, Read(key)) == Found(b"old", version)


async def check_write_that_expects_a_version(store: Store) -> None:
    for look_first in (False, True):
        key, version = await present(store)
        operation = write(key, expect=version, look_first=look_first)
        assert await one(store, operation) == Written()
        assert await one(store, Read(key)) == Found(b"new", operation.version)
        refused = await one(store, write(key, b"late", expect=version, look_first=look_first))
        assert refused == Conflict(Found(b"new", operation.version)), "the version it expects is no longer there"
        refused = await one(store, write(key, b"late", expect=new_version(), look_first=look_first))
        assert refused == Conflict(Found(b"new", operation.version)), "a version that never was"
        assert await one(store, Read(key)) == Found(b"new", operation.version)
        absent = new_key()
        assert await one(store, write(absent, expect=version, look_first=look_first)) == Conflict(Missing())
        assert await one(store, Read(absent)) == Missing()
        ((gone, stood),) = await expired(store, 1)
        operation = write(gone, expect=stood, look_first=look_first)
        outcome = await one(store, operation)
        assert outcome in (Written(), Conflict(Missing())), "it may land, or find nothing"
        now = await one(store, Read(gone))
        assert now == (Found(b"new", operation.version) if outcome == Written() else Missing())


async def check_write_that_expects_anything(store: Store) -> None:
    ((gone, _),) = await expired(store, 1)
    key, _ = await present(store)
    for place in (new_key(), key, gone):
        operation = write(place, expect=ANYTHING)
        assert await one(store, operation) == Written()
        assert await one(store, Read(place)) == Found(b"new", operation.version)


async def check_delete_that_expects_a_version(store: Store) -> None:
    key, version = await present(store)
    assert await one(store, Delete(key, expect=new_version())) == Conflict(Found(b"old", version))
    assert await one(store, Read(key)) == Found(b"old", version)
    assert await one(store, Delete(key, expect=version)) == Deleted()
    assert await one(store, Read(key)) == Missing()
    assert await one(store, Delete(key, expect=version)) == Missing()
    assert await one(store, Delete(new_key(), expect=version)) == Missing()
    ((gone, stood), (gone_too, _)) = await expired(store, 2)
    assert await one(store, Delete(gone, expect=stood)) in (Missing(), Deleted())
    assert await one(store, Delete(gone_too, expect=new_version())) in (Missing(), Conflict(Missing()))


async def check_delete_that_expects_anything(store: Store) -> None:
    key, _ = await present(store)
    assert await one(store, Delete(key, expect=ANYTHING)) == Deleted()
    assert await one(store, Read(key)) == Missing()
    assert await one(store, Delete(key, expect=ANYTHING)) == Missing()
    ((gone, _),) = await expired(store, 1)
    assert await one(store, Delete(gone, expect=ANYTHING)) in (Missing(), Deleted())


# --- versions ---------------------------------------------------------------------------------------------------------


async def check_sending_again(store: Store) -> None:
    """The same write sent twice is Written twice, whatever it expected; a third time, over another's, it is not."""
    key = new_key()
    first = write(key, b"1", expect=ABSENT)
    assert [await one(store, first) for _ in range(3)] == [Written()] * 3
    second = write(key, b"2", expect=first.version)
    assert [await one(store, second) for _ in range(3)] == [Written()] * 3
    assert await one(store, Read(key)) == Found(b"2", second.version)
    assert await one(store, first) == Conflict(Found(b"2", second.version)), "a late copy"
    assert await one(store, Read(key)) == Found(b"2", second.version)


async def check_a_write_sent_again_keeps_what_it_says(store: Store) -> None:
    """A write that was sent again lives no shorter than it would have."""
    operation = write(new_key(), b"1", expect=ABSENT, ttl=0.5)
    assert await one(store, operation) == Written()
    written = time.monotonic()
    await asyncio.sleep(0.1)
    assert await one(store, operation) == Written()
    await asyncio.sleep(max(0.4 + written - time.monotonic(), 0))
    if time.monotonic() - written < 0.45:
        assert await one(store, Read(operation.key)) == Found(b"1", operation.version)


async def check_equal_bytes_are_another_version(store: Store) -> None:
    key, version = await present(store, b"same")
    operation = write(key, b"same", expect=version)
    assert await one(store, operation) == Written()
    assert await one(store, Read(key)) == Found(b"same", operation.version)
    assert await one(store, write(key, expect=version)) == Conflict(Found(b"same", operation.version))


async def check_deleted_and_made_again(store: Store) -> None:
    """No version comes back, so a writer from an earlier life is refused in every later one."""
    key, late = new_key(), list[Version]()
    for life in range(20):
        operation = write(key, b"%d" % life, expect=ABSENT)
        assert await one(store, operation) == Written()
        for version in late[-3:]:
            assert await one(store, write(key, b"late", expect=version)) == Conflict(
                Found(b"%d" % life, operation.version)
            )
        assert await one(store, Delete(key, expect=operation.version)) == Deleted()
        late.append(operation.version)


async def check_versions_of_all_bytes(store: Store) -> None:
    """A version is bytes and nothing else: zeros, quotes and line ends in it mean nothing."""
    for version in (bytes(8), b"\xff" * 8, b"\r\n\r\n\r\n\r\n", b"\"\\\0'%d$1", b"0000000\0"):
        key = new_key()
        first = Write(key, b"1", ttl=MINUTE, version=Version(version), expect=ABSENT)
        assert await one(store, first) == Written()
        assert await one(store, Read(key)) == Found(b"1", Version(version))
        assert await one(store, write(key, b"2", expect=first.version)) == Written()


# --- values, keys, sizes ----------------------------------------------------------------------------------------------


async def check_values(store: Store) -> None:
    every_byte = bytes(range(256))
    for value in (every_byte, every_byte[::-1] * 40, b"", b"\0", b"\r\n", b"OK", b"-ERR no\r\n", b"\xff" * 1000):
        key, version = await present(store, value)
        assert await one(store, Read(key)) == Found(value, version)
        operation = write(key, value + b"!", expect=version)
        assert await one(store, operation) == Written()
        assert await one(store, Read(key)) == Found(value + b"!", operation.version)
        refused = await one(store, write(key, expect=ABSENT))
        assert refused == Conflict(Found(value + b"!", operation.version))


async def check_keys(store: Store) -> None:
    unique = os.urandom(8).hex()
    alphabet = "ABCXYZabcxyz0189._:=~-"
    names = [unique + alphabet, unique + "." * 30, "-" + unique, "~" + unique, "_" + unique, "x" * 168 + unique * 2]
    assert len(names[-1]) == 200
    for number, name in enumerate(names):
        value = b"%d" % number
        assert await one(store, write(name, value, expect=ABSENT)) == Written()
    for number, name in enumerate(names):
        found = await one(store, Read(name))
        assert isinstance(found, Found)
        assert found.value == b"%d" % number
        assert await one(store, Read(name[:-1])) == Missing(), "a shorter name is another key"
        assert await one(store, Read(name.swapcase())) in (Missing(), found)
        assert await one(store, Delete(name, expect=found.version)) == Deleted()


async def check_upper_and_lower_case_differ(store: Store) -> None:
    key = new_key()
    assert await one(store, write(key + "a", b"lower", expect=ABSENT)) == Written()
    assert await one(store, write(key + "A", b"upper", expect=ABSENT)) == Written()
    lower, upper = await store.perform(Read(key + "a"), Read(key + "A"))
    assert isinstance(lower, Found)
    assert isinstance(upper, Found)
    assert (lower.value, upper.value) == (b"lower", b"upper")


async def check_too_large(store: Store) -> None:
    """The largest value is kept; one byte more is refused, the old value stands, and neighbours are not touched."""
    largest = store.limits.largest_value_bytes
    with within(20.0):
        key, version = await present(store, bytes(largest))
        found = await one(store, Read(key))
        assert isinstance(found, Found)
        assert found == Found(bytes(largest), version)
        beside = write(new_key(), b"beside", expect=ABSENT)
        for operation in (
            write(key, bytes(largest + 1), expect=version),
            write(key, bytes(largest + 1), expect=ANYTHING),
        ):
            refused, neighbour, read = await store.perform(operation, beside, Read(new_key()))
            assert isinstance(refused, Failed)
            assert isinstance(refused.error, ValueTooLarge)
            assert (refused.error.size_bytes, refused.error.largest_bytes) == (largest + 1, largest)
            assert (neighbour, read) == (Written(), Missing())
        found = await one(store, Read(key))
        assert isinstance(found, Found)
        assert found.version == version
        assert await one(store, Delete(key, expect=version)) == Deleted()


# --- calls ------------------------------------------------------------------------------------------------------------


async def check_mixed_operations_in_one_call(store: Store) -> None:
    here, version = await present(store, b"here")
    doomed, doomed_version = await present(store, b"doomed")
    changed, changed_version = await present(store, b"changed")
    refused, refused_version = await present(store, b"refused")
    fresh = new_key()
    outcomes = await store.perform(
        Read(here),
        write(refused, expect=ABSENT),
        Delete(doomed, expect=doomed_version),
        write(changed, b"again", expect=changed_version),
        Read(new_key()),
        write(fresh, b"fresh", expect=ABSENT),
        Delete(new_key(), expect=ANYTHING),
    )
    assert list(outcomes) == [
        Found(b"here", version),
        Conflict(Found(b"refused", refused_version)),
        Deleted(),
        Written(),
        Missing(),
        Written(),
        Missing(),
    ]
    values = [
        found.value if isinstance(found, Found) else None
        for found in await store.perform(*(Read(key) for key in (here, refused, doomed, changed, fresh)))
    ]
    assert values == [b"here", b"refused", None, b"again", b"fresh"]


async def check_many_operations_in_one_call(store: Store) -> None:
    keys = [new_key() for _ in range(40)]
    writes = [write(key, b"%d" % number, expect=ABSENT) for number, key in enumerate(keys)]
    assert list(await store.perform(*writes)) == [Written()] * 40
    random.shuffle(writes)
    found = await store.perform(*(Read(operation.key) for operation in writes))
    assert list(found) == [Found(operation.value, operation.version) for operation in writes]


async def check_a_call_of_nothing(store: Store) -> None:
    assert list(await store.perform()) == []


async def check_repeated_keys(store: Store) -> None:
    key, version = await present(store)
    for operations in ([Read(key), Read(key)], [Read(key), Read(new_key()), Delete(key, expect=version)]):
        shown = None
        try:
            await store.perform(*operations)
        except ValueError as error:
            shown = str(error)
        assert shown is not None, "a key stood twice in one call"
        assert key not in shown
    assert await one(store, Read(key)) == Found(b"old", version), "nothing was carried out"


async def check_conveniences(store: Store) -> None:
    key, first, second = new_key(), new_version(), new_version()
    assert await store.read(key) == Missing()
    assert await store.write(key, b"1", ttl=MINUTE, version=first, expect=ABSENT) == Written()
    assert await store.write(key, b"2", ttl=MINUTE, version=second, expect=ABSENT) == Conflict(Found(b"1", first))
    assert await store.read(key) == Found(b"1", first)
    assert await store.delete(key, expect=second) == Conflict(Found(b"1", first))
    assert await store.delete(key, expect=first) == Deleted()
    try:
        await store.write(
            key, bytes(store.limits.largest_value_bytes + 1), ttl=MINUTE, version=second, expect=ABSENT, look_first=True
        )
    except ValueTooLarge:
        pass
    else:
        raise AssertionError("a value larger than the limit was taken")


async def check_use_after_closing(store: Store) -> None:
    key, version = await present(store)
    for _ in range(2):
        await store.aclose()
        await store.aclose()
        found = await one(store, Read(key))
        assert found == Found(b"old", version) or store.limits.one_process


# --- expiry -----------------------------------------------------------------------------------------------------------


async def check_expiry(store: Store) -> None:
    """Never earlier than asked, at most 2 s later; begun in four phases of the second, for clocks that tick slowly."""

    async def lives(phase: float, ttl: float) -> None:
        await asyncio.sleep(phase)
        key, version, asked = new_key(), new_version(), time.monotonic()
        assert await one(store, Write(key, b"x", ttl=ttl, version=version, expect=ABSENT)) == Written()
        answered = time.monotonic()
        while True:
            begun = time.monotonic()
            found = await one(store, Read(key))
            if found == Missing():
                break
            assert found == Found(b"x", version)
            assert begun - answered < ttl + LATEST_EXPIRY, f"{ttl} s became {begun - answered:.2f} s"
            await asyncio.sleep(0.01)
        lived = time.monotonic() - asked
        assert lived >= ttl - 0.002, f"{ttl} s became {lived:.3f} s"

    await asyncio.gather(*(lives(phase / 4, ttl) for phase in range(4) for ttl in (0.25, 1.0)))


async def check_a_write_begins_a_new_life(store: Store) -> None:
    key, version = await present(store, ttl=0.2)
    operation = write(key, expect=version, ttl=MINUTE)
    assert await one(store, operation) == Written()
    await asyncio.sleep(0.25)
    assert await one(store, Read(key)) == Found(b"new", operation.version)


async def check_long_and_short_lives(store: Store) -> None:
    for days in (29, 31, 366, 3_660):
        key, version = await present(store, ttl=days * 86_400.0)
        assert await one(store, Read(key)) == Found(b"old", version)
        assert await one(store, Delete(key, expect=version)) == Deleted()
    await present(store, ttl=1e-9)  # is taken, and says nothing about how long it was there


# --- races ------------------------------------------------------------------------------------------------------------


async def increment(store: Store, key: str, *, times: int) -> int:
    """Read, give way, write; returns how many conflicts there were. Needs a number to stand under `key`."""
    conflicts = 0
    for _ in range(times):
        stands: Outcome | Missing = await one(store, Read(key))
        while True:
            assert isinstance(stands, Found), stands
            await asyncio.sleep(0)
            operation, begun = write(key, b"%d" % (int(stands.value) + 1), expect=stands.version), time.monotonic()
            outcome = await one(store, operation)
            took = time.monotonic() - begun
            if outcome == Written():
                break
            assert isinstance(outcome, Conflict), outcome
            assert isinstance(outcome.stands, Found), "nobody deletes here"
            assert outcome.stands.version != stands.version, "a conflict showed the expected version"
            conflicts += 1
            # A rest of its own for each, up to two calls long: without it, 15 of 16 calls are lost.
            await asyncio.sleep(random.random() * 2 * took)
            stands = await one(store, Read(key)) if conflicts % 2 else outcome.stands
    return conflicts


async def check_race_of_increments(store: Store, *, tasks: int = 16, times: int = 200) -> int:
    """No increment is lost: 16 x 200 = 3,200. Returns the number of conflicts."""
    with within(60.0):
        key, _ = await present(store, b"0")
        conflicts = sum(await asyncio.gather(*(increment(store, key, times=times) for _ in range(tasks))))
        found = await one(store, Read(key))
        assert isinstance(found, Found)
        assert int(found.value) == tasks * times
    assert conflicts > 0, "nobody was ever in anybody's way: this was no race"
    return conflicts


async def check_race_of_claims(store: Store, *, claimers: int = 50) -> None:
    """One winner among 50, on nothing and on something expired; all others are shown the winner's claim."""

    async def claim(key: str, name: int) -> tuple[Version, Outcome]:
        await asyncio.sleep(0)
        operation = write(key, b"%d" % name, expect=ABSENT)
        return operation.version, await one(store, operation)

    with within(30.0):
        for key in [new_key(), new_key(), *(key for key, _ in await expired(store, 1))]:
            claims = await asyncio.gather(*(claim(key, name) for name in range(claimers)))
            winners = [number for number, (_, outcome) in enumerate(claims) if outcome == Written()]
            assert len(winners) == 1
            shown = Found(b"%d" % winners[0], claims[winners[0]][0])
            assert [outcome for _, outcome in claims if outcome != Written()] == [Conflict(shown)] * (claimers - 1)
            assert await one(store, Read(key)) == shown


async def check_race_of_deletes(store: Store) -> None:
    """Of 20 that delete one version, one has Deleted it."""
    with within(30.0):
        key, version = await present(store)
        outcomes = await asyncio.gather(*(one(store, Delete(key, expect=version)) for _ in range(20)))
        assert outcomes.count(Deleted()) == 1
        assert outcomes.count(Missing()) == 19


def _checks(names: Iterable[str]) -> tuple[Check, ...]:
    return tuple(globals()[name] for name in names if name.startswith("check_") and "race" not in name)


CHECKS = _checks(list(globals()))
"""All but the races."""
