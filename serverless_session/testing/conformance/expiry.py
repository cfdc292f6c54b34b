"""Expiry: never earlier than asked, at most 2 s later.

A store's clock may tick in whole seconds, and a life that begins just after a tick hides what one that begins just
before it shows; so lives begin in four phases of the second. The checks go by the machine's own clock.
"""

from __future__ import annotations

import asyncio
import time

from serverless_session.stores.contract import ABSENT, Delete, Deleted, Found, Missing, Read, Store, Written
from serverless_session.testing.conformance.trial import Trial, check, together
from serverless_session.testing.conformance.verdicts import LATEST_EXPIRY, TABLE, ask, hold, judge, must, stands
from serverless_session.testing.operations import new_key, write

DAY = 86_400.0
POLL = 0.01
CLOCK_SLACK = 0.002
"""Seconds by which two readings of one machine's clocks may differ."""


async def _lives(store: Store, *, begins: float, ttl: float, sent_again: bool = False) -> None:
    """One life, watched to its end. `begins`: seconds from now."""
    await asyncio.sleep(begins)
    operation, asked = write(new_key(), b"life", expect=ABSENT, ttl=ttl), time.monotonic()
    await must(store, operation, Written(), rule=TABLE)
    if sent_again:
        await asyncio.sleep(ttl / 4)
        await must(store, operation, Written(), rule=2, because="the same write was sent again")
    latest = time.monotonic() + ttl + LATEST_EXPIRY
    while True:
        begun = time.monotonic()
        (outcome,) = await ask(store, Read(operation.key))
        lived = time.monotonic() - asked
        if outcome == Missing():
            hold(lived > ttl - CLOCK_SLACK, f"a ttl of {ttl:g} s ended after {lived:.3f} s, too early", rule=4)
            return
        judge(Read(operation.key), outcome, Found(b"life", operation.version), rule=4)
        hold(begun < latest, f"with a ttl of {ttl:g} s a value was still returned after {begun - asked:.2f} s", rule=4)
        await asyncio.sleep(POLL)


class ExpiryChecks(Trial):
    """How long values live."""

    @check
    async def test_a_value_lives_as_long_as_asked_and_at_most_2_s_longer(self, store: Store) -> None:
        lives = [_lives(store, begins=phase / 4, ttl=ttl) for phase in range(4) for ttl in (0.3, 1.0)]
        await together(*lives)

    @check
    async def test_a_write_that_was_sent_again_lives_no_shorter(self, store: Store) -> None:
        await _lives(store, begins=0, ttl=0.3, sent_again=True)

    @check
    async def test_a_write_over_a_short_life_begins_a_new_one(self, store: Store) -> None:
        key, version = await stands(store, ttl=0.3)
        operation = write(key, expect=version)
        await must(store, operation, Written(), rule=TABLE, because="what it expects was written just before")
        await asyncio.sleep(0.35)
        because = "its ttl is a minute, and that of the value it replaced is over"
        await must(store, Read(key), Found(b"new", operation.version), rule=4, because=because)

    @check
    async def test_a_write_over_a_long_life_may_begin_a_short_one(self, store: Store) -> None:
        key, version = await stands(store, ttl=366 * DAY)
        operation = write(key, expect=version, ttl=0.05)
        await must(store, operation, Written(), rule=TABLE, because="what it expects was written just before")
        latest = time.monotonic() + 0.05 + LATEST_EXPIRY
        while (await ask(store, Read(key))) != [Missing()]:
            hold(time.monotonic() < latest, "a value written for 0.05 s was still returned 2 s after its end", rule=4)
            await asyncio.sleep(POLL)

    @check
    async def test_what_is_to_live_for_a_year_stands_now_and_can_be_replaced_and_deleted(self, store: Store) -> None:
        """Above 30 days Memcached takes a ttl for a date; milliseconds of 25 days leave 32 bits."""
        for days in (1, 24, 25, 29, 30, 31, 50, 366):
            key, version = await stands(store, ttl=days * DAY)
            because = f"it was written for {days} days"
            await must(store, Read(key), Found(b"old", version), rule=4, because=because)
            operation = write(key, expect=version, ttl=days * DAY)
            await must(store, operation, Written(), rule=4, because=because)
            await must(store, Read(key), Found(b"new", operation.version), rule=4, because=because)
            await must(store, Delete(key, expect=operation.version), Deleted(), rule=4, because=because)
            await must(store, Read(key), Missing(), rule=4, because="it was deleted")

    @check
    async def test_the_shortest_life_is_taken(self, store: Store) -> None:
        """Nothing is said about how long it was there, but it is no error and does not live forever."""
        key, _ = await stands(store, ttl=1e-9)
        latest = time.monotonic() + LATEST_EXPIRY
        while (await ask(store, Read(key))) != [Missing()]:
            hold(time.monotonic() < latest, "a value written for 1 ns was still returned after 2 s", rule=4)
            await asyncio.sleep(POLL)
