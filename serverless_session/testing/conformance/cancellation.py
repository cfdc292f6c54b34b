"""A storm of calls, half of them cancelled at a random moment, over whatever connections the store shares among them.

A connection whose call was cancelled still has that call's answer on its way. A store that uses it again hands the
answer to somebody else: a stranger's session, or "you own this" for a key that is taken. So readers, claimers and
writers are mixed, each knows exactly what it may be told, and a cancelled write is one that may land, now or later.
"""

from __future__ import annotations

import asyncio
import random
import time

from serverless_session.stores.contract import (
    ABSENT,
    Conflict,
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
from serverless_session.testing.conformance.trial import Trial, check, together
from serverless_session.testing.conformance.verdicts import ContractBroken, ask, hold, judge, must, stands
from serverless_session.testing.operations import new_key, write

READERS, CLAIMERS, WRITERS = 10, 10, 10
NOT_OURS = "it was handed what was meant for another call: a connection was used again after a cancellation?"


class Storm:
    """Calls that are cancelled at random. `answered` and `cancelled` count how they ended."""

    def __init__(self, store: Store, calls: int, dice: random.Random) -> None:
        self.store = store
        self.dice = dice
        self.calls_left = calls
        self.answered = 0
        self.cancelled = 0
        self._usual_seconds = 0.001

    async def call(self, *operations: Operation) -> list[Outcome] | None:
        """The outcomes of a call, or None if it was cancelled."""
        self.calls_left -= 1
        loop, begun = asyncio.get_running_loop(), time.monotonic()
        task = asyncio.ensure_future(ask(self.store, *operations))
        requested: list[bool] = []
        timer: asyncio.Handle | None = None
        fate = self.dice.random()
        if fate < 0.1:
            timer = loop.call_soon(lambda: requested.append(task.cancel()))
        elif fate < 0.5:
            delay = self.dice.random() * 1.5 * self._usual_seconds
            timer = loop.call_later(delay, lambda: requested.append(task.cancel()))
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:  # the storm is over: somebody else was told what is not so
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise
        if timer is not None:
            timer.cancel()
        else:
            self._usual_seconds += 0.2 * (time.monotonic() - begun - self._usual_seconds)
        if task.cancelled():
            self.cancelled += 1
            return None
        outcomes = task.result()
        hold(not any(requested), "a call that was cancelled returned outcomes all the same", rule=9)
        self.answered += 1
        return outcomes

    async def reads(self, number: int, stood: list[tuple[str, Version]]) -> None:
        """Read keys that nobody changes, one to three in a call."""
        count = 1 + number % 3
        asked = [self.dice.randrange(len(stood)) for _ in range(count)]
        asked = list(dict.fromkeys(asked))
        outcomes = await self.call(*(Read(stood[at][0]) for at in asked))
        for at, outcome in zip(asked, outcomes or [], strict=False):
            key, version = stood[at]
            judge(Read(key), outcome, Found(b"%d" % at, version), rule=9, because=NOT_OURS)

    async def claims(self, number: int) -> None:
        """Claim one key several times at once. One may be told that it won, and then it has."""
        key = new_key()
        claims = [write(key, b"claim %d %d" % (number, who), expect=ABSENT) for who in range(CLAIMERS)]
        told = await together(*(self.call(claim) for claim in claims))
        (there,) = await ask(self.store, Read(key))
        landed = [Found(claim.value, claim.version) for claim in claims]
        if there != Missing():
            judge(Read(key), there, *landed, rule=9, because="only these claims were made here")
        for claim, landing, outcomes in zip(claims, landed, told, strict=True):
            if outcomes is not None:
                true = Written() if landing == there else Conflict(there) if isinstance(there, Found) else None
                hold(true is not None, "a claim was answered, and afterwards nothing stood there", rule=9)
                assert true is not None
                judge(claim, outcomes[0], true, rule=9, because="a read afterwards shows who has won")

    async def writes(self, number: int, times: int) -> None:
        """Write one key again and again, each time expecting what stands there. What is acknowledged stands."""
        key, version = await stands(self.store, b"write %d" % number)
        known = Found(b"write %d" % number, version)
        pending: list[Write] = []  # were cancelled and expect what is known: any of them may still land, or have landed
        for step in range(times):
            operation = write(key, b"write %d %d" % (number, step), expect=known.version)
            outcomes = await self.call(operation)
            overtaken = [Found(cancelled.value, cancelled.version) for cancelled in pending]
            if outcomes is None:
                pending.append(operation)
            elif outcomes[0] == Written():
                known, pending = Found(operation.value, operation.version), []
            else:
                allowed: list[Outcome] = [Written(), *(Conflict(found) for found in overtaken)]
                judge(operation, outcomes[0], *allowed, rule=9, because="nobody else writes this key")
                assert isinstance(outcomes[0], Conflict)
                assert isinstance(outcomes[0].stands, Found)
                known, pending = outcomes[0].stands, []
            if step % 4 == 0:
                overtaken = [Found(cancelled.value, cancelled.version) for cancelled in pending]
                because = "what was acknowledged stands until a write that expects it lands"
                there = await must(self.store, Read(key), known, *overtaken, rule=9, because=because)
                assert isinstance(there, Found)
                if there != known:
                    known, pending = there, []


class CancellationChecks(Trial):
    """What cancelling a call may do to others."""

    @check
    async def test_a_storm_of_cancellations_tells_nobody_what_is_not_so(self, store: Store) -> None:
        storm = Storm(store, self.storm_calls, self.dice())
        stood = [await stands(store, b"%d" % number) for number in range(30)]
        shares = storm.calls_left // 2, storm.calls_left // 4

        async def read_on(reader: int) -> None:
            for number in range(shares[0] // READERS):
                await storm.reads(reader + number, stood)

        async def claim_on(claimer: int) -> None:
            for number in range(shares[1] // CLAIMERS // 2):
                await storm.claims(2 * number + claimer)

        await together(
            *(read_on(number) for number in range(READERS)),
            *(claim_on(number) for number in range(2)),
            *(storm.writes(number, shares[1] // WRITERS) for number in range(WRITERS)),
        )
        for number, (key, version) in enumerate(stood):
            because = "a store works on after calls of it were cancelled"
            await must(store, Read(key), Found(b"%d" % number, version), rule=9, because=because)
        await stands(store)

    @check
    async def test_a_call_that_is_cancelled_is_cancelled(self, store: Store) -> None:
        """Whatever it waits for at that moment; and the next call is answered as if nothing had been."""
        key, version = await stands(store)
        for steps in range(12):
            call = asyncio.ensure_future(store.perform(Read(key), write(new_key(), expect=ABSENT)))
            for _ in range(steps):
                await asyncio.sleep(0)
            requested = call.cancel()
            await asyncio.wait([call])
            if requested and not call.cancelled():
                raise ContractBroken("a call that was cancelled ended as if it had not been", rule=9)
            await must(store, Read(key), Found(b"old", version), rule=9, because="the call before was cancelled")
