"""`Cache`: values that are computed once and found again by everybody. It moves operations; `leases` decides.

In one process, those who ask for one key at the same time share one look at the store (a *flight*), but never one that
had begun before they asked: something may have been invalidated since. Between processes, leases do the same. A store
that fails costs `PATIENCE_WITH_A_STORE` once in a while and nothing otherwise: values are computed as if there were no
cache. An invalidation is never swallowed like that: it is done, or it raises.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from contextvars import ContextVar
from typing import Any, Final, TypeVar

from serverless_session.caching.keys import key_bytes
from serverless_session.caching.policy import CachePolicy
from serverless_session.deadline import Duration, time_left, within
from serverless_session.errors import (
    ConfigurationError,
    StoreError,
    StoreUnavailable,
    ValueNotSerializable,
    WriteUncertain,
)
from serverless_session.records import leases
from serverless_session.records.leases import Ask, Entry, Lease, Place, Steps, Terms, Told
from serverless_session.records.records import Records
from serverless_session.shared import SharedState
from serverless_session.stores.contract import Failed

_T = TypeVar("_T")

PATIENCE_WITH_A_STORE: Final = 0.05
"""Seconds that one call of the store may take, where computing is the other way."""

LEASE_SECONDS: Final = 30.0
PATIENCE_WITH_OTHERS: Final = 10.0
"""Seconds to wait for another's computation."""

FIRST_REST: Final = 1.0
"""Seconds for which a store that failed is not asked."""

_computing: ContextVar[frozenset[str]] = ContextVar("serverless_session_computing", default=frozenset())
"""The keys whose values are being computed around here: who asks for one of them again would wait for himself."""


class Cache:
    """Keeps values in the store of `shared`, under a name of its own.

    `ttl`, or a whole `policy`: how long values are kept, unless a call says otherwise. `name`: tells caches apart that
    share a store and have the same keys.
    """

    def __init__(
        self,
        shared: SharedState | None = None,
        *,
        ttl: Duration | None = None,
        policy: CachePolicy | None = None,
        name: str = "",
    ) -> None:
        if ttl is not None and policy is not None:
            raise ConfigurationError(
                "two-policies", "a policy already says how long", looked_at="ttl=, policy=", mend="one of the two"
            )
        self._shared = shared if shared is not None else SharedState.default()
        self._policy = policy if policy is not None else None if ttl is None else CachePolicy(ttl=ttl)
        self._name = name
        self._flights: dict[tuple[int, str], _Flight] = {}
        self._rests_until = 0.0

    async def get_or_compute(
        self,
        key: Hashable,
        compute: Callable[[], Awaitable[_T]],
        *,
        ttl: Duration | None = None,
        tags: Sequence[str] = (),
        policy: CachePolicy | None = None,
    ) -> _T:
        """The value under `key`, computed by `compute()` where there is none.

        One of all who ask for it at once computes. None is a value. Raises what `compute` raises, `TypeError` for a key
        that cannot be one, and `ValueNotSerializable` for a value that would not come back as it is.
        """
        chosen = self._chosen(ttl, policy)
        place = self._place(key, tags)
        if place.key in _computing.get():
            return await compute()
        here = id(asyncio.get_running_loop()), place.key
        flight = self._flights.get(here)
        if flight is None or flight.has_begun:
            flight = _Flight(lambda: self._find_or_compute(place, compute, chosen), after=flight)
            self._flights[here] = flight
            flight.task.add_done_callback(lambda _: self._land(here, flight))
        value: _T = await flight.join()
        return value

    async def invalidate(self, *keys: Hashable) -> None:
        """Nobody who asks from now on gets what is kept under these keys. Raises `StoreError` if it was not done."""
        await self._surely(lambda: leases.invalidate([self._place(key, ()).key for key in keys]))

    async def invalidate_tags(self, *tags: str, stale: bool = False) -> None:
        """Nobody who asks from now on gets a value of these tags. `stale`: each is computed anew at its next use, and
        shown meanwhile. Raises `StoreError` if it was not done."""
        places = [self._tag(tag) for tag in tags]
        await self._surely(lambda: leases.make_tags_stale(places) if stale else leases.invalidate_tags(places))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _chosen(self, ttl: Duration | None, policy: CachePolicy | None) -> CachePolicy:
        chosen = policy if policy is not None else CachePolicy(ttl=ttl) if ttl is not None else self._policy
        if chosen is None:
            raise ConfigurationError(
                "no-ttl", "nothing says how long this value is kept", looked_at="ttl=, policy=", mend="Cache(ttl=60)"
            )
        return chosen

    def _place(self, key: Hashable, tags: Sequence[str]) -> Place:
        records, encoded = self._records, key_bytes(key)
        name = self._name.encode()
        return Place(
            records.key(b"value", name, encoded),
            records.key(b"beside", name, encoded),
            [self._tag(tag) for tag in dict.fromkeys(tags)],
        )

    def _tag(self, tag: str) -> str:
        return self._records.key(b"tag", tag.encode())

    @functools.cached_property
    def _records(self) -> Records:
        return self._shared.records("cache", compress=True)

    def _land(self, here: tuple[int, str], flight: _Flight) -> None:
        if self._flights.get(here) is flight:
            del self._flights[here]

    async def _find_or_compute(self, place: Place, compute: Callable[[], Awaitable[_T]], policy: CachePolicy) -> _T:
        records, now = self._records, self._shared.clock.time()
        terms = Terms(
            lease=max(min(LEASE_SECONDS, time_left(LEASE_SECONDS)), 0.1),
            patience=PATIENCE_WITH_OTHERS,
            is_early=lambda entry, now: policy.is_early(entry, now, 1 - random.random()),  # noqa: S311
        )
        found = await self._carry_out(leases.find(records, place, terms, now))
        if isinstance(found, Entry):
            value: _T = found.value
            return value
        lease = found if isinstance(found, Lease) else None
        began = time.monotonic()
        token = _computing.set(_computing.get() | {place.key})
        try:
            computed = await compute()
        except BaseException as error:
            if lease is not None:
                await self._carry_out(leases.give_back(lease))
                if isinstance(error, Exception) and self._may_be_shown(lease.entry):
                    assert lease.entry is not None
                    value = lease.entry.value
                    return value  # noqa: RET504 - with its type
            raise
        finally:
            _computing.reset(token)
        if lease is not None:
            now = self._shared.clock.time()
            ends = policy.ends(now, random.random())  # noqa: S311
            entry = Entry(computed, ends, time.monotonic() - began, lease.stamps)
            try:
                await self._carry_out(leases.keep(records, lease, entry, now))
            except ValueNotSerializable:
                await self._carry_out(leases.give_back(lease))
                raise
        return computed

    def _may_be_shown(self, entry: Entry | None) -> bool:
        """Where computing fails."""
        return entry is not None and self._shared.clock.time() < entry.ends.error

    async def _carry_out(self, steps: Steps[_T]) -> Any:
        """Do what the rules ask for; a store that fails is answered for, and not asked for a while."""
        try:
            asked = next(steps)
            while True:
                if isinstance(asked, Ask):
                    outcomes = await self._perform(asked)
                else:
                    await asyncio.sleep(asked.seconds)
                    outcomes = ()
                asked = steps.send(Told(outcomes, self._shared.clock.time()))
        except StopIteration as stop:
            return stop.value

    async def _perform(self, asked: Ask) -> Sequence[Any]:
        if time.monotonic() < self._rests_until:
            return [Failed(_RESTING) for _ in asked.operations]
        with within(PATIENCE_WITH_A_STORE):
            outcomes: Sequence[Any] = await self._records.perform(*asked.operations)
        if any(isinstance(outcome, Failed) and isinstance(outcome.error, StoreError) for outcome in outcomes):
            self._rests_until = time.monotonic() + FIRST_REST
        return outcomes

    async def _surely(self, make: Callable[[], Steps[None]]) -> None:
        """An invalidation: twice, where nobody can tell whether it was done."""
        for last in (False, True):
            steps = make()
            try:
                asked = next(steps)
                while True:
                    assert isinstance(asked, Ask)
                    outcomes = await self._records.perform(*asked.operations)
                    asked = steps.send(Told(outcomes, self._shared.clock.time()))
            except StopIteration:
                return
            except WriteUncertain:
                if last:
                    raise


class _Flight:
    """One look at the store, and perhaps one computation, for all who asked before it began.

    It begins when the one before it has ended. It is cancelled when nobody waits for it any more.
    """

    def __init__(self, look: Callable[[], Coroutine[Any, Any, Any]], *, after: _Flight | None) -> None:
        self.has_begun = False
        self._look = look
        self._waiting = 0
        self.task = asyncio.ensure_future(self._fly(after))

    async def _fly(self, after: _Flight | None) -> Any:
        if after is not None:
            await asyncio.wait([after.task])
        self.has_begun = True
        return await self._look()

    async def join(self) -> Any:
        """What it brings: a copy for each, but for the last who takes it."""
        self._waiting += 1
        try:
            await asyncio.wait([self.task])
        finally:
            self._waiting -= 1
            if not self._waiting and not self.task.done():
                self.task.cancel()
        value = self.task.result()
        return copy.deepcopy(value) if self._waiting else value


_RESTING: Final = StoreUnavailable("a store that failed a moment ago is not asked")
