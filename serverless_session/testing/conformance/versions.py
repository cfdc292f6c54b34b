"""Versions are the writers' own: they survive a lost answer, another process and another life of the same key."""

from __future__ import annotations

from serverless_session.stores.contract import (
    ABSENT,
    ANYTHING,
    Conflict,
    Delete,
    Deleted,
    Found,
    Missing,
    Outcome,
    Read,
    Store,
    Version,
    Write,
    Written,
    new_version,
)
from serverless_session.testing.conformance.outcomes import BOTH
from serverless_session.testing.conformance.trial import Trial, check
from serverless_session.testing.conformance.verdicts import TABLE, hold, must, stands
from serverless_session.testing.operations import MINUTE, new_key, write

LIVES = 20


def as_bytes_only(version: Version) -> Version:
    """The same version as another process knows it: an object that this store has never seen."""
    return Version(bytes(bytearray(version)))


def _found(outcome: Outcome) -> Found:
    hold(isinstance(outcome, Found), "nothing was found where a value had been written just before", rule=5)
    assert isinstance(outcome, Found)
    return outcome


class VersionChecks(Trial):
    """What versions are, and what they settle."""

    @check
    async def test_the_same_write_sent_again_is_written(self, store: Store) -> None:
        """As when its answer was lost: the first copy has landed, and the second finds its own version."""
        for look_first in BOTH:
            key = new_key()
            first = write(key, b"1", expect=ABSENT, look_first=look_first)
            second = write(key, b"2", expect=first.version, look_first=look_first)
            for operation in (first, second):
                for time in ("first", "second", "third"):
                    because = f"the same write was sent for the {time} time, and nothing else in between"
                    await must(store, operation, Written(), rule=2, because=because)
                await must(store, Read(key), Found(operation.value, operation.version), rule=5)

    @check
    async def test_a_late_copy_of_a_write_that_was_replaced_is_refused(self, store: Store) -> None:
        for look_first in BOTH:
            key = new_key()
            first = write(key, b"1", expect=ABSENT, look_first=look_first)
            await must(store, first, Written(), rule=TABLE)
            second = write(key, b"2", expect=first.version)
            await must(store, second, Written(), rule=TABLE)
            there = Found(b"2", second.version)
            await must(store, first, Conflict(there), rule=2, because="another version stands there by now")
            await must(store, Read(key), there, rule=TABLE, because="a write that was refused changes nothing")

    @check
    async def test_a_delete_sent_again_is_missing(self, store: Store) -> None:
        key, version = await stands(store)
        await must(store, Delete(key, expect=version), Deleted(), rule=TABLE)
        await must(store, Delete(key, expect=version), Missing(), rule=2)
        successor = write(key, expect=ABSENT)
        await must(store, successor, Written(), rule=TABLE)
        there = Found(b"new", successor.version)
        await must(store, Delete(key, expect=version), Conflict(there), rule=2, because="it names an earlier version")
        await must(store, Read(key), there, rule=TABLE, because="a delete that was refused changes nothing")

    @check
    async def test_equal_bytes_are_another_version(self, store: Store) -> None:
        for look_first in BOTH:
            key, version = await stands(store, b"same")
            operation = write(key, b"same", expect=version, look_first=look_first)
            there = Found(b"same", operation.version)
            await must(store, operation, Written(), rule=1, because="the version is new, though the bytes are the same")
            await must(store, Read(key), there, rule=1, because="the version is new, though the bytes are the same")
            late = write(key, b"same", expect=version, look_first=look_first)
            await must(store, late, Conflict(there), rule=1, because="the version that it expects was replaced")

    @check
    async def test_no_version_comes_back_when_a_key_is_deleted_and_made_again(self, store: Store) -> None:
        """A writer from an earlier life is refused in every later one."""
        key, earlier = new_key(), list[Version]()
        for life in range(LIVES):
            born = write(key, b"%d" % life, expect=ABSENT)
            await must(store, born, Written(), rule=TABLE, because="the key was deleted just before")
            there = Found(born.value, born.version)
            found = _found(await must(store, Read(key), there, rule=1, because="the version is the writer's"))
            hold(found.version not in earlier, "a version that was deleted stands there again", rule=1)
            for version in earlier[-3:]:
                late, delete = write(key, b"late", expect=version), Delete(key, expect=version)
                await must(store, late, Conflict(there), rule=1, because="it expects a version of an earlier life")
                await must(store, delete, Conflict(there), rule=1, because="it expects a version of an earlier life")
            await must(store, Delete(key, expect=found.version), Deleted(), rule=TABLE)
            late = write(key, b"late", expect=found.version)
            await must(store, late, Conflict(Missing()), rule=1, because="what it expects was deleted")
            earlier.append(born.version)

    @check
    async def test_a_version_is_8_bytes_and_nothing_else(self, store: Store) -> None:
        """Zeros, quotes and line ends mean nothing in it."""
        for pattern in (bytes(8), b"\xff" * 8, b"\r\n\r\n\r\n\r\n", b"\"\\\0'%d$1", b"0000000\0", b"\0" * 7 + b"1"):
            key, version = new_key(), Version(pattern)
            first = Write(key, b"1", ttl=MINUTE, version=version, expect=ABSENT)
            await must(store, first, Written(), rule=1)
            await must(store, Read(key), Found(b"1", version), rule=1)
            await must(store, write(key, b"2", expect=version), Written(), rule=1)
            beside = Write(new_key(), b"1", ttl=MINUTE, version=version, expect=ABSENT)
            await must(store, beside, Written(), rule=1)
            await must(store, Delete(beside.key, expect=version), Deleted(), rule=1)

    @check
    async def test_a_version_known_only_as_bytes_is_as_good(self, store: Store) -> None:
        """It came from another process, so a hint that this store keeps with the object it returned is not there."""
        for look_first in BOTH:
            key, version = await stands(store)
            stray = write(key, expect=as_bytes_only(new_version()), look_first=look_first)
            await must(store, stray, Conflict(Found(b"old", version)), rule=1)
            operation = write(key, expect=as_bytes_only(version), look_first=look_first)
            await must(store, operation, Written(), rule=1)
            found = _found(await must(store, Read(key), Found(b"new", operation.version), rule=5))
            again = write(key, b"again", expect=as_bytes_only(found.version), look_first=look_first)
            await must(store, again, Written(), rule=1)
            late = write(key, b"late", expect=as_bytes_only(found.version), look_first=look_first)
            await must(store, late, Conflict(Found(b"again", again.version)), rule=1)
            await must(store, Delete(key, expect=as_bytes_only(again.version)), Deleted(), rule=1)

    @check
    async def test_a_version_learned_through_another_store_object_is_as_good(self, store: Store) -> None:
        """Two processes take turns at one key. Where only one process sees the store there is nothing to check."""
        if store.limits.one_process:
            return
        async with self.another_store() as other:
            for look_first in BOTH:
                key, version = await stands(store)
                for value, here, there in ((b"1", other, store), (b"2", store, other), (b"3", other, store)):
                    found = _found(await must(here, Read(key), Found(b"old", version), rule=5))
                    mine = write(key, b"old", expect=found.version, look_first=look_first)
                    stray = write(key, value, expect=new_version(), look_first=look_first)
                    await must(here, stray, Conflict(found), rule=3)
                    await must(here, mine, Written(), rule=1)
                    late = write(key, value, expect=found.version, look_first=look_first)
                    await must(there, late, Conflict(Found(b"old", mine.version)), rule=1)
                    version = mine.version

    @check
    async def test_what_a_store_remembers_of_a_version_is_worth_nothing_after_anothers_write(
        self, store: Store
    ) -> None:
        """It read a version; somebody else then replaced it, or deleted it and made the key again."""
        if store.limits.one_process:
            return
        async with self.another_store() as other:
            for made_again in (False, True):
                key, _ = await stands(other)
                read = _found(await must(store, Read(key), *[await other.read(key)], rule=5))
                if made_again:
                    await must(other, Delete(key, expect=ANYTHING), Deleted(), rule=TABLE)
                theirs = write(key, b"theirs", expect=ABSENT if made_again else as_bytes_only(read.version))
                await must(other, theirs, Written(), rule=1)
                there = Found(b"theirs", theirs.version)
                because = "another store object has written since this one read"
                late, delete = write(key, b"late", expect=read.version), Delete(key, expect=read.version)
                await must(store, late, Conflict(there), rule=1, because=because)
                await must(store, delete, Conflict(there), rule=1, because=because)
                mine = write(key, b"mine", expect=as_bytes_only(theirs.version))
                await must(store, mine, Written(), rule=1, because="the version that it expects stands there")
