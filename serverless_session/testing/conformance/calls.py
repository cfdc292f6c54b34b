"""Calls: many operations, each with its own outcome; wrong use; no time left; one loop after the other."""

from __future__ import annotations

import asyncio
import functools
import time

from serverless_session.deadline import within
from serverless_session.errors import StoreError, StoreTimeout, ValueTooLarge, WriteUncertain
from serverless_session.stores.contract import (
    ABSENT,
    ANYTHING,
    Conflict,
    Delete,
    Deleted,
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
from serverless_session.testing.conformance.trial import Trial, check
from serverless_session.testing.conformance.values import refuses
from serverless_session.testing.conformance.verdicts import ContractBroken, ask, hold, judge, must, stands
from serverless_session.testing.operations import new_key, write

MANY = 48


class CallChecks(Trial):
    """What a call is."""

    @check
    async def test_each_of_several_operations_has_its_own_outcome_in_the_order_given(self, store: Store) -> None:
        dice = self.dice()
        for _ in range(6):
            asked = await _one_of_each(store)
            dice.shuffle(asked)
            outcomes = await ask(store, *(operation for operation, _, _ in asked))
            for (operation, allowed, _), outcome in zip(asked, outcomes, strict=True):
                judge(operation, outcome, allowed, rule=6, because="outcomes come in the order of the operations")
            for operation, _, there in asked:
                await must(store, Read(operation.key), there, rule=6, because="this is what the call left there")

    @check
    async def test_many_operations_go_into_one_call(self, store: Store) -> None:
        dice = self.dice()
        writes = [write(new_key(), b"%d" % number, expect=ABSENT) for number in range(MANY)]
        for operation, outcome in zip(writes, await ask(store, *writes), strict=True):
            judge(operation, outcome, Written(), rule=6)
        dice.shuffle(writes)
        reads = [Read(operation.key) for operation in writes]
        for read, operation, outcome in zip(reads, writes, await ask(store, *reads), strict=True):
            judge(read, outcome, Found(operation.value, operation.version), rule=6, because="in the order given")
        deletes = [Delete(operation.key, expect=operation.version) for operation in writes]
        for delete, outcome in zip(deletes, await ask(store, *deletes), strict=True):
            judge(delete, outcome, Deleted(), rule=6)

    @check
    async def test_one_failure_among_others_is_one_outcome(self, store: Store) -> None:
        """First, in the middle, last: what stands beside it is carried out."""
        largest = store.limits.largest_value_bytes
        for place in range(3):
            operations: list[Operation] = [write(new_key(), b"%d" % number, expect=ABSENT) for number in range(2)]
            failing = write(new_key(), bytes(largest + 1), expect=ABSENT)
            operations.insert(place, failing)
            for operation, outcome in zip(operations, await ask(store, *operations), strict=True):
                if operation is failing:
                    refuses(operation, outcome, largest)
                    continue
                judge(operation, outcome, Written(), rule=6, because="only the operation beside it failed")
                assert isinstance(operation, Write)
                await must(store, Read(operation.key), Found(operation.value, operation.version), rule=6)

    @check
    async def test_a_call_of_nothing_has_no_outcomes(self, store: Store) -> None:
        hold(await ask(store) == [], "a call of nothing has outcomes", rule=6)

    @check
    async def test_a_key_that_stands_twice_in_one_call_is_refused_before_anything_is_done(self, store: Store) -> None:
        key, version = await stands(store)
        free = write(new_key(), expect=ABSENT)
        calls: list[list[Operation]] = [
            [Read(key), Read(key)],
            [free, Read(key), Delete(key, expect=version)],
            [write(key, expect=version), free, write(key, expect=ANYTHING)],
        ]
        for operations in calls:
            try:
                await store.perform(*operations)
            except ValueError as error:
                hold(key not in str(error), "an error message shows a key", rule=6)
            else:
                raise ContractBroken("a key stood twice in one call, and no ValueError said so", rule=6)
            await must(store, Read(key), Found(b"old", version), rule=6, because="the call was wrong use")
            await must(store, Read(free.key), Missing(), rule=6, because="the call was wrong use")

    @check
    async def test_a_convenience_raises_the_error_of_its_outcome(self, store: Store) -> None:
        too_large = bytes(store.limits.largest_value_bytes + 1)
        try:
            await store.write(new_key(), too_large, ttl=60, version=new_version(), expect=ABSENT)
        except ValueTooLarge:
            return
        except StoreError as error:
            raise ContractBroken(f"a value that is too large raised {type(error).__name__}", rule=8) from error
        raise ContractBroken("a value that is too large was taken", rule=8)

    @check
    async def test_a_call_without_time_left_ends_at_once(self, store: Store) -> None:
        """Answered after all, or a failure that says no more than what is known."""
        for seconds in (0.0, -1.0):
            key, version = await stands(store)
            operation, begun = write(key, expect=version), time.monotonic()
            beside = Read(new_key())
            with within(seconds):
                written, read = await ask(store, operation, beside)
            hold(time.monotonic() - begun < 2.0, "a call with no time left took 2 s", rule=9)
            old, new = Found(b"old", version), Found(b"new", operation.version)
            if read != Missing():
                _failed_with(beside, read, StoreTimeout)
            if written == Written():
                await must(store, Read(key), new, rule=9, because="the write was answered Written")
            elif isinstance(_failed_with(operation, written, StoreTimeout, WriteUncertain), StoreTimeout):
                await must(store, Read(key), old, rule=9, because="StoreTimeout says of a write that it was not sent")
            else:
                await must(store, Read(key), old, new, rule=9, because="a write that is uncertain stands, or does not")

    @check
    async def test_a_closed_store_opens_anew(self, store: Store) -> None:
        key, version = await stands(store)
        for _ in range(2):
            await store.aclose()
            await store.aclose()
            because = "a store may be used again after aclose()"
            if store.limits.one_process:  # it may have kept nothing
                await must(store, Read(key), Found(b"old", version), Missing(), rule=10, because=because)
            else:
                await must(store, Read(key), Found(b"old", version), rule=10, because=because)
            operation = write(new_key(), expect=ABSENT)
            await must(store, operation, Written(), rule=10, because=because)

    def test_one_store_object_serves_one_loop_after_the_other(self) -> None:
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as first:
            store = first.run(self.open_store())
            key, version = first.run(self.timed(functools.partial(stands, store)))
            first.run(store.aclose())
        for number in range(2):
            with asyncio.Runner(loop_factory=asyncio.new_event_loop) as later:
                version = later.run(self.timed(functools.partial(_found_and_written, store, key, version, number)))
                later.run(store.aclose())


async def _found_and_written(store: Store, key: str, version: Version, number: int) -> Version:
    """In another loop, what was written in an earlier one is there; the version of what this one writes."""
    because = "a store object may be used by several loops, one after the other"
    there = Found(b"old" if number == 0 else b"%d" % (number - 1), version)
    if store.limits.one_process:
        outcome = await must(store, Read(key), there, Missing(), rule=10, because=because)
    else:
        outcome = await must(store, Read(key), there, rule=10, because=because)
    operation = write(key, b"%d" % number, expect=version if outcome == there else ABSENT)
    await must(store, operation, Written(), rule=10, because=because)
    return operation.version


async def _one_of_each(store: Store) -> list[tuple[Operation, Outcome, Found | Missing]]:
    """Operations that differ in kind and outcome: what each must be answered, and what stands there afterwards."""
    (here, a), (taken, b), (doomed, c), (changed, d), (kept, e) = [
        await stands(store, value) for value in (b"here", b"taken", b"doomed", b"changed", b"kept")
    ]
    changes, claims, makes = (
        write(changed, b"again", expect=d),
        write(taken, b"claim", expect=ABSENT),
        write(new_key(), b"made", expect=ABSENT),
    )
    stray = write(new_key(), b"stray", expect=new_version())
    return [
        (Read(here), Found(b"here", a), Found(b"here", a)),
        (Read(new_key()), Missing(), Missing()),
        (claims, Conflict(Found(b"taken", b)), Found(b"taken", b)),
        (Delete(doomed, expect=c), Deleted(), Missing()),
        (changes, Written(), Found(b"again", changes.version)),
        (makes, Written(), Found(b"made", makes.version)),
        (stray, Conflict(Missing()), Missing()),
        (Delete(kept, expect=new_version()), Conflict(Found(b"kept", e)), Found(b"kept", e)),
        (Delete(new_key(), expect=ANYTHING), Missing(), Missing()),
    ]


def _failed_with(operation: Operation, outcome: Outcome, *kinds: type[StoreError]) -> StoreError:
    error = outcome.error if isinstance(outcome, Failed) else None
    if not isinstance(error, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        because = f"without time left the only failure is {names}"
        judge(operation, outcome, Written() if isinstance(operation, Write) else Missing(), rule=9, because=because)
    assert isinstance(error, StoreError)
    return error
