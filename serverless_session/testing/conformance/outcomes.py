"""Each operation where nothing stands, where something does, where it has expired, and where the version is another.

Every write is made twice, with `look_first` and without: it changes no outcome.
"""

from __future__ import annotations

from typing import Final

from serverless_session.stores.contract import (
    ABSENT,
    ANYTHING,
    Conflict,
    Delete,
    Deleted,
    Found,
    Missing,
    Read,
    Store,
    Write,
    Written,
    new_version,
)
from serverless_session.testing.conformance.trial import Trial, check
from serverless_session.testing.conformance.verdicts import TABLE, expired, judge, must, stands
from serverless_session.testing.operations import new_key, write

BOTH: Final = (False, True)
"""`look_first`."""


async def _lands(store: Store, operation: Write, *, rule: int, because: str) -> None:
    """The write is Written, and what is read afterwards is what it wrote."""
    rule = 7 if operation.look_first else rule
    await must(store, operation, Written(), rule=rule, because=because)
    written = Found(operation.value, operation.version)
    await must(store, Read(operation.key), written, rule=5, because="this was written just before")


async def _is_refused(store: Store, operation: Write, there: Found | Missing, *, because: str) -> None:
    """The write is a Conflict with what stands there, and that still stands."""
    rule = 7 if operation.look_first else 3
    await must(store, operation, Conflict(there), rule=rule, because=because)
    await must(store, Read(operation.key), there, rule=TABLE, because="a write that was refused changes nothing")


class OutcomeChecks(Trial):
    """Operations one by one."""

    @check
    async def test_reading_where_nothing_stands_is_missing(self, store: Store) -> None:
        await must(store, Read(new_key()), Missing(), rule=TABLE, because="nobody had used this key")

    @check
    async def test_reading_shows_what_was_written(self, store: Store) -> None:
        key, version = await stands(store)
        for _ in range(2):
            await must(store, Read(key), Found(b"old", version), rule=5, because="this was written just before")

    @check
    async def test_reading_what_has_expired_is_missing(self, store: Store) -> None:
        ((key, _),) = await expired(store, 1)
        await must(store, Read(key), Missing(), rule=4, because="what stood there has expired, as was seen before")

    @check
    async def test_a_write_that_expects_nothing_takes_a_free_key(self, store: Store) -> None:
        for look_first in BOTH:
            free = write(new_key(), expect=ABSENT, look_first=look_first)
            await _lands(store, free, rule=TABLE, because="it expects that nothing stands there, and nothing does")

    @check
    async def test_a_write_that_expects_nothing_takes_over_what_has_expired(self, store: Store) -> None:
        for look_first, (key, _) in zip(BOTH, await expired(store, 2), strict=True):
            claim = write(key, expect=ABSENT, look_first=look_first)
            await _lands(store, claim, rule=4, because="what stood there has expired, so nothing stands there")

    @check
    async def test_a_write_that_expects_nothing_is_refused_where_something_stands(self, store: Store) -> None:
        key, version = await stands(store)
        for look_first in BOTH:
            claim = write(key, expect=ABSENT, look_first=look_first)
            await _is_refused(store, claim, Found(b"old", version), because="something stands there")

    @check
    async def test_a_write_that_expects_a_version_replaces_it(self, store: Store) -> None:
        for look_first in BOTH:
            key, version = await stands(store)
            for value in (b"new", b"newer"):
                operation = write(key, value, expect=version, look_first=look_first)
                await _lands(store, operation, rule=TABLE, because="the version that it expects stands there")
                version = operation.version

    @check
    async def test_a_write_that_expects_another_version_is_refused(self, store: Store) -> None:
        for look_first in BOTH:
            key, replaced = await stands(store)
            winner = write(key, b"winner", expect=replaced)
            await must(store, winner, Written(), rule=TABLE, because="the version that it expects stands there")
            there = Found(b"winner", winner.version)
            late = write(key, b"late", expect=replaced, look_first=look_first)
            await _is_refused(store, late, there, because="the version that it expects stands there no longer")
            stray = write(key, b"stray", expect=new_version(), look_first=look_first)
            await _is_refused(store, stray, there, because="the version that it expects never stood there")

    @check
    async def test_a_write_that_expects_a_version_is_refused_where_nothing_stands(self, store: Store) -> None:
        for look_first in BOTH:
            stray = write(new_key(), expect=new_version(), look_first=look_first)
            await _is_refused(store, stray, Missing(), because="nothing stands there")
            key, version = await stands(store)
            await must(store, Delete(key, expect=version), Deleted(), rule=TABLE)
            late = write(key, expect=version, look_first=look_first)
            await _is_refused(store, late, Missing(), because="what it expects was deleted")

    @check
    async def test_a_write_that_expects_a_version_which_has_expired_lands_or_finds_nothing(self, store: Store) -> None:
        for look_first, (key, version) in zip(BOTH, await expired(store, 2), strict=True):
            operation = write(key, expect=version, look_first=look_first)
            outcome = await must(store, operation, Written(), Conflict(Missing()), rule=4)
            there = Found(b"new", operation.version) if outcome == Written() else Missing()
            await must(store, Read(key), there, rule=5, because=f"the write before was answered {outcome!r}")

    @check
    async def test_a_write_that_expects_another_version_than_the_expired_finds_nothing(self, store: Store) -> None:
        for look_first, (key, _) in zip(BOTH, await expired(store, 2), strict=True):
            stray = write(key, expect=new_version(), look_first=look_first)
            await _is_refused(store, stray, Missing(), because="what stood there has expired")

    @check
    async def test_a_write_that_expects_anything_lands_everywhere(self, store: Store) -> None:
        for look_first, (gone, _) in zip(BOTH, await expired(store, 2), strict=True):
            key, _ = await stands(store)
            for place in (new_key(), key, gone):
                operation = write(place, expect=ANYTHING, look_first=look_first)
                await _lands(store, operation, rule=TABLE, because="it expects anything")

    @check
    async def test_a_delete_that_expects_a_version_removes_it_once(self, store: Store) -> None:
        key, version = await stands(store)
        await must(store, Delete(key, expect=version), Deleted(), rule=TABLE)
        await must(store, Read(key), Missing(), rule=5, because="it was deleted just before")
        await must(store, Delete(key, expect=version), Missing(), rule=TABLE, because="it was deleted before")
        await must(store, Delete(new_key(), expect=version), Missing(), rule=TABLE, because="nobody had used this key")

    @check
    async def test_a_delete_that_expects_another_version_is_refused(self, store: Store) -> None:
        key, replaced = await stands(store)
        winner = write(key, b"winner", expect=replaced)
        await must(store, winner, Written(), rule=TABLE)
        there = Found(b"winner", winner.version)
        for expect in (new_version(), replaced):
            because = "the version that it expects does not stand there"
            await must(store, Delete(key, expect=expect), Conflict(there), rule=3, because=because)
            await must(store, Read(key), there, rule=TABLE, because="a delete that was refused changes nothing")

    @check
    async def test_a_delete_of_what_has_expired_finds_nothing_or_that(self, store: Store) -> None:
        (right, wrong, any_) = await expired(store, 3)
        await must(store, Delete(right[0], expect=right[1]), Missing(), Deleted(), rule=4)
        await must(store, Delete(wrong[0], expect=new_version()), Missing(), Conflict(Missing()), rule=4)
        await must(store, Delete(any_[0], expect=ANYTHING), Missing(), Deleted(), rule=4)
        for key, _ in (right, wrong, any_):
            await must(store, Read(key), Missing(), rule=4, because="what stood there has expired")

    @check
    async def test_a_delete_that_expects_anything_removes_what_stands(self, store: Store) -> None:
        key, _ = await stands(store)
        await must(store, Delete(key, expect=ANYTHING), Deleted(), rule=TABLE)
        await must(store, Read(key), Missing(), rule=5, because="it was deleted just before")
        await must(store, Delete(key, expect=ANYTHING), Missing(), rule=TABLE, because="it was deleted before")

    @check
    async def test_the_conveniences_say_the_same(self, store: Store) -> None:
        key, first, second = new_key(), new_version(), new_version()
        write_first = Write(key, b"1", ttl=60, version=first, expect=ABSENT)
        write_second = Write(key, b"2", ttl=60, version=second, expect=ABSENT)
        judge(Read(key), await store.read(key), Missing(), rule=TABLE)
        outcome = await store.write(key, b"1", ttl=60, version=first, expect=ABSENT)
        judge(write_first, outcome, Written(), rule=TABLE)
        outcome = await store.write(key, b"2", ttl=60, version=second, expect=ABSENT, look_first=True)
        judge(write_second, outcome, Conflict(Found(b"1", first)), rule=TABLE)
        judge(Read(key), await store.read(key), Found(b"1", first), rule=TABLE)
        deleting = await store.delete(key, expect=second)
        judge(Delete(key, expect=second), deleting, Conflict(Found(b"1", first)), rule=TABLE)
        judge(Delete(key, expect=first), await store.delete(key, expect=first), Deleted(), rule=TABLE)
        await must(store, Read(key), Missing(), rule=5, because="it was deleted just before")
