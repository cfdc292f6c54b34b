"""Races of many tasks for one key: nothing is lost, one wins, and everybody else is told who."""

from __future__ import annotations

import asyncio
import random
import time

from serverless_session.stores.contract import (
    ABSENT,
    Conflict,
    Delete,
    Deleted,
    Found,
    Missing,
    Operation,
    Read,
    Store,
    Written,
)
from serverless_session.testing.conformance.outcomes import BOTH
from serverless_session.testing.conformance.trial import Trial, check, together
from serverless_session.testing.conformance.verdicts import TABLE, ask, expired, hold, judge, must, stands
from serverless_session.testing.operations import new_key, write

INCREMENTERS = 16
DELETERS = 20


async def increment(store: Store, key: str, *, times: int, dice: random.Random | None = None) -> None:
    """Read the number under `key`, give way, write one more, `times` times, by compare-and-set."""
    dice = dice or random.Random()
    for _ in range(times):
        (there,) = await ask(store, Read(key))
        for attempt in range(10_000):
            hold(isinstance(there, Found), "a number that nobody deletes is gone", rule=5)
            assert isinstance(there, Found)
            await asyncio.sleep(0)
            operation = write(key, b"%d" % (int(there.value) + 1), expect=there.version)
            begun = time.monotonic()
            (outcome,) = await ask(store, operation)
            took = time.monotonic() - begun
            if outcome == Written():
                break
            if not isinstance(outcome, Conflict) or not isinstance(outcome.stands, Found):
                because = "several increment a number that nobody deletes"
                judge(operation, outcome, Written(), Conflict(there), rule=TABLE, because=because)
            assert isinstance(outcome, Conflict)
            assert isinstance(outcome.stands, Found)
            shown = outcome.stands.version
            hold(shown != there.version, "a Conflict showed the very version that was expected", rule=3)
            hold(shown != operation.version, "a Conflict showed the version of the write it refused", rule=2)
            # A rest of its own for each, up to two calls long: without it, 15 of 16 calls are lost.
            await asyncio.sleep(dice.random() * 2 * took)
            # In turns: what the conflict showed must be as good as a read.
            there = outcome.stands if attempt % 2 else (await ask(store, Read(key)))[0]
        else:
            hold(False, "10,000 attempts at one increment were all refused", rule=3)


class RaceChecks(Trial):
    """Compare-and-set under contention."""

    @check
    async def test_no_increment_is_lost(self, store: Store) -> None:
        key, _ = await stands(store, b"0")
        dice, times = self.dice(), self.increments
        await together(*(increment(store, key, times=times, dice=dice) for _ in range(INCREMENTERS)))
        (found,) = await ask(store, Read(key))
        counted = int(found.value) if isinstance(found, Found) else 0
        told = INCREMENTERS * times
        hold(counted == told, f"{told:,} increments were answered Written, and the number is {counted:,}", rule=3)

    @check
    async def test_one_of_many_claims_wins(self, store: Store) -> None:
        for look_first in BOTH:
            await self._claim(store, new_key(), look_first=look_first)

    @check
    async def test_one_of_many_claims_wins_what_has_expired(self, store: Store) -> None:
        for look_first, (key, _) in zip(BOTH, await expired(store, 2), strict=True):
            await self._claim(store, key, look_first=look_first)

    async def _claim(self, store: Store, key: str, *, look_first: bool) -> None:
        claims = [write(key, b"%d" % who, expect=ABSENT, look_first=look_first) for who in range(self.claimers)]
        outcomes = [outcome for (outcome,) in await together(*(ask(store, claim) for claim in claims))]
        won = [claim for claim, outcome in zip(claims, outcomes, strict=True) if outcome == Written()]
        hold(len(won) == 1, f"of {self.claimers} claims at once, {len(won)} were answered Written", rule=3)
        winner = Found(won[0].value, won[0].version)
        for claim, outcome in zip(claims, outcomes, strict=True):
            if claim is not won[0]:
                judge(claim, outcome, Conflict(winner), rule=3, because="another claim has won")
        await must(store, Read(key), winner, rule=5, because="this claim has won")

    @check
    async def test_one_of_many_deletes_deletes(self, store: Store) -> None:
        for _ in range(3):
            key, version = await stands(store)
            delete = Delete(key, expect=version)
            outcomes = [outcome for (outcome,) in await together(*(ask(store, delete) for _ in range(DELETERS)))]
            for outcome in outcomes:
                judge(delete, outcome, Deleted(), Missing(), rule=TABLE, because="all delete the same version")
            deleted = outcomes.count(Deleted())
            hold(
                deleted == 1,
                f"of {DELETERS} deletes at once, {deleted} were answered Deleted",
                rule=3,
            )

    @check
    async def test_a_delete_and_writes_that_expect_the_same_version_exclude_each_other(self, store: Store) -> None:
        """As when a visitor logs out while other requests save."""
        for _ in range(10):
            key, version = await stands(store)
            delete, writes = Delete(key, expect=version), [write(key, expect=version) for _ in range(8)]
            racing: list[Operation] = [*writes[:4], delete, *writes[4:]]
            outcomes = [one for (one,) in await together(*(ask(store, operation) for operation in racing))]
            deleting = outcomes.pop(4)
            written = [operation for operation, outcome in zip(writes, outcomes, strict=True) if outcome == Written()]
            winners = len(written) + (deleting == Deleted())
            hold(winners == 1, f"of a delete and 8 writes that expected one version, {winners} succeeded", rule=3)
            there = Found(written[0].value, written[0].version) if written else Missing()
            if written:
                judge(delete, deleting, Conflict(there), rule=3, because="a write has won")
            for operation, outcome in zip(writes, outcomes, strict=True):
                if operation not in written:
                    judge(operation, outcome, Conflict(there), rule=3, because="another operation has won")
            await must(store, Read(key), there, rule=5, because="this has won")
