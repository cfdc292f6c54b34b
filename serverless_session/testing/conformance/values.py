"""Values, keys and sizes: any bytes, any key the contract allows, and the largest value to the byte."""

from __future__ import annotations

import os
import string

from serverless_session.errors import ValueTooLarge
from serverless_session.stores.contract import (
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
)
from serverless_session.testing.conformance.outcomes import BOTH
from serverless_session.testing.conformance.trial import Trial, check
from serverless_session.testing.conformance.verdicts import TABLE, ask, hold, judge, must, stands
from serverless_session.testing.operations import new_key, write

KEY_CHARACTERS = string.ascii_letters + string.digits + "._:=~-"
LONGEST_KEY = 200
EVERY_BYTE = bytes(range(256))
VALUES = (
    EVERY_BYTE,
    EVERY_BYTE[::-1] * 40,
    b"",
    b"\0",
    b"\r\n",
    b"a\r\nb\0c",
    b"OK",
    b"-ERR no\r\n",
    b"1",
    b"\xff" * 999,
)


class ValueChecks(Trial):
    """What a store keeps, and where."""

    @check
    async def test_every_value_comes_back_byte_for_byte(self, store: Store) -> None:
        for value in VALUES:
            key, version = await stands(store, value)
            await must(store, Read(key), Found(value, version), rule=TABLE, because="a value is any bytes")
            operation = write(key, value + b"\0\r\n", expect=version)
            await must(store, operation, Written(), rule=TABLE)
            there = Found(value + b"\0\r\n", operation.version)
            await must(store, Read(key), there, rule=TABLE, because="a value is any bytes")
            await must(store, write(key, expect=ABSENT), Conflict(there), rule=3, because="a value is any bytes")
            await must(store, write(key, value, expect=ANYTHING), Written(), rule=TABLE)

    @check
    async def test_every_key_is_its_own(self, store: Store) -> None:
        """All characters, the longest key, keys that begin with another one."""
        unique = os.urandom(8).hex()
        names = [unique + KEY_CHARACTERS, unique, unique + ".", unique + ".." * 9, unique + ":", unique + "::"]
        names += [character + unique for character in KEY_CHARACTERS if character != "."]
        names += [unique.ljust(LONGEST_KEY, end) for end in "xX~"]
        writes = [write(name, b"%d" % number, expect=ABSENT) for number, name in enumerate(names)]
        for operation in writes:
            await must(store, operation, Written(), rule=TABLE, because="nobody had used this key")
        for operation in writes:
            there = Found(operation.value, operation.version)
            await must(store, Read(operation.key), there, rule=TABLE, because="every key has a value of its own")
        shorter = unique.ljust(LONGEST_KEY - 1, "x")
        await must(store, Read(shorter), Missing(), rule=TABLE, because="only a longer key was used")
        for operation in writes:
            await must(store, Delete(operation.key, expect=operation.version), Deleted(), rule=TABLE)

    @check
    async def test_upper_and_lower_case_are_different_keys(self, store: Store) -> None:
        key = new_key()
        for name in (key + "a", key + "A"):
            await must(store, write(name, name[-1:].encode(), expect=ABSENT), Written(), rule=TABLE)
        for name in (key + "a", key + "A"):
            (outcome,) = await ask(store, Read(name))
            alone = isinstance(outcome, Found) and outcome.value == name[-1:].encode()
            hold(alone, "two keys that differ in the case of a letter were taken for one", rule=TABLE)

    @check
    async def test_the_largest_value_is_kept(self, store: Store) -> None:
        largest = store.limits.largest_value_bytes
        first = write(key := new_key(), bytes(largest), expect=ABSENT)
        await must(store, first, Written(), rule=8, because="the size is what limits says")
        await must(store, Read(key), Found(first.value, first.version), rule=8)
        again = write(key, b"\xff" * largest, expect=first.version)
        await must(store, again, Written(), rule=8)
        await must(store, write(key, expect=ABSENT), Conflict(Found(again.value, again.version)), rule=8)
        await must(store, Delete(key, expect=again.version), Deleted(), rule=8)

    @check
    async def test_one_byte_more_than_the_largest_value_is_refused_and_the_old_value_stands(self, store: Store) -> None:
        largest = store.limits.largest_value_bytes
        too_large = bytes(largest + 1)
        key, version = await stands(store)
        free = new_key()
        for look_first in BOTH:
            cases: list[tuple[str, Expected, Found | Missing]] = [
                (key, version, Found(b"old", version)),
                (key, ANYTHING, Found(b"old", version)),
                (key, ABSENT, Found(b"old", version)),
                (free, ABSENT, Missing()),
            ]
            for place, expect, there in cases:
                operation = write(place, too_large, expect=expect, look_first=look_first)
                (outcome,) = await ask(store, operation)
                refuses(operation, outcome, largest)
                because = "a value that is too large is never sent"
                await must(store, Read(place), there, rule=8, because=because)
                await must(store, write(place, expect=_never()), Conflict(there), rule=8, because=because)

    @check
    async def test_a_value_that_is_too_large_does_not_touch_its_neighbours(self, store: Store) -> None:
        largest = store.limits.largest_value_bytes
        key, version = await stands(store)
        operations: list[Operation] = [
            write(new_key(), b"before", expect=ABSENT),
            write(key, bytes(largest + 1), expect=version),
            Read(new_key()),
            write(new_key(), b"after", expect=ABSENT),
        ]
        before, refused, read, after = await ask(store, *operations)
        refuses(operations[1], refused, largest)
        because = "each operation has an outcome of its own"
        judge(operations[0], before, Written(), rule=6, because=because)
        judge(operations[2], read, Missing(), rule=6, because=because)
        judge(operations[3], after, Written(), rule=6, because=because)
        for operation in (operations[0], operations[3]):
            assert isinstance(operation, Write)
            await must(store, Read(operation.key), Found(operation.value, operation.version), rule=6, because=because)


def refuses(operation: Operation, outcome: Outcome, largest: int) -> None:
    """The outcome of a write of one byte too many."""
    error = outcome.error if isinstance(outcome, Failed) else None
    if not isinstance(error, ValueTooLarge):
        judge(operation, outcome, Failed(ValueTooLarge(largest + 1, largest)), rule=8)
    else:
        sizes = error.size_bytes, error.largest_bytes
        hold(sizes == (largest + 1, largest), f"{sizes} are not the size and the largest size", rule=8)


def _never() -> Version:
    """A version that never stood anywhere."""
    return write(new_key(), expect=ABSENT).version
