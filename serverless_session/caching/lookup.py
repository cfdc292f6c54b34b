"""One value looked up: found, or to be computed. `leases` decides; this carries out, and remembers what is worth it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from time import monotonic
from typing import Final

from serverless_session.caching.answers import Answered, Loaded, Wanted, answered
from serverless_session.caching.computation import Computation, draw, loader
from serverless_session.caching.flights import Rest
from serverless_session.caching.guarded import GuardedStore
from serverless_session.caching.policy import CachePolicy
from serverless_session.caching.shapes import ANYTHING, Shape
from serverless_session.caching.stats import Answer
from serverless_session.deadline import has_invocation_end, seconds, time_left
from serverless_session.records import leases
from serverless_session.records.leases import Entry, Freshness, Lease, Terms, Unfit
from serverless_session.records.records import Records
from serverless_session.shared import SharedState
from serverless_session.stores.contract import Read

LEASE_SECONDS: Final = 3.0
"""How long a lease lasts that is not prolonged, as that of a process that was killed; less if the invocation ends."""

LEAST_LEASE_SECONDS: Final = 0.1
"""However little time remains: a ttl is above 0."""

_REMEMBERED: Final = 4096

_read: Final = functools.lru_cache(_REMEMBERED)(Read)
"""Of the last keys: what is asked for again need not be made and checked again: 0.1 us, not 0.7."""


class Lookup:
    """Looks values up, for one cache. `tag_key`: the key of a tag; `watch`: that of the watch over late tags."""

    def __init__(
        self, shared: SharedState, records: Records, store: GuardedStore, tag_key: Callable[[str], str], watch: str
    ) -> None:
        self._shared = shared
        self._records = records
        self._store = store
        self._computation = Computation(shared, records, store, tag_key, watch)
        self._tried: dict[str, float] = {}
        self._unkept: dict[str, float] = {}

    async def look(self, wanted: Wanted) -> Answered | Rest[Answered]:
        """What is there, or what is to be computed."""
        policy = wanted.policy
        early = False
        if wanted.expects and not wanted.refresh:
            again = await self._look_again(wanted)
            if isinstance(again, Answered):
                return again
            early = again
        soft = None if policy.soft_timeout is None else seconds(policy.soft_timeout)
        terms = Terms(
            lease=max(min(LEASE_SECONDS, time_left(LEASE_SECONDS)), LEAST_LEASE_SECONDS),
            patience=wanted.patience,
            soft=soft,
            is_early=lambda entry, now: (
                early or self._is_early(wanted.place.key, policy, entry.ends.fresh, entry.cost, now)
            ),
            refresh=wanted.refresh,
        )
        load = loader(self._records, wanted.shape, policy)
        found = await self._store.carry_out(leases.find(wanted.place, terms, load, self._shared.clock.time()))
        if isinstance(found, Entry):
            return answered(found)
        lease = found if isinstance(found, Lease) else None
        entry = lease.entry if lease is not None else None
        if entry is None or wanted.refresh:
            unkept = lease is not None and not lease.held and lease.is_passage
            if unkept:
                self.note_unkept(wanted.place.key)
            return Rest(lambda: self._computation.compute(wanted, lease), alone=unkept)
        return Rest(
            lambda: self._computation.compute(wanted, lease),
            alone=True,
            soft=soft,
            meanwhile=answered(entry._replace(freshness=Freshness.STALE)),
            goes_on=not has_invocation_end(),
        )

    async def _look_again(self, wanted: Wanted) -> Answered | bool:
        """What was there when this process looked last, if it still is, and fresh. Else: is it time to refresh it?"""
        place, now = wanted.place, self._shared.clock.time()
        outcomes = await self._store.ask(*[_read(key) for key in (place.key, *place.all_tags)])
        fresh = leases.fresh(place, outcomes, now)
        if fresh is None:
            return False
        if self._is_early(place.key, wanted.policy, fresh.fresh_until, fresh.cost, now):
            return True
        plain = self._records.unpack(fresh.packed)
        shape = wanted.shape
        try:
            loaded = Loaded(plain if shape is ANYTHING else shape.load(plain), plain, fresh.packed)
        except Unfit:
            return False
        return Answered(
            Answer.HIT, fresh.cost, loaded, is_kept=True, fresh_until=fresh.fresh_until, tags=place.all_tags
        )

    def again(self, found: Answered, shape: Shape) -> Answered:
        """The same for somebody else, who may change what he gets."""
        if found.loaded is None:
            return found
        plain = self._records.unpack(found.loaded.packed)
        return found._replace(loaded=found.loaded._replace(value=shape.load(plain), plain=plain))

    def note_unkept(self, key: str) -> None:
        """Whoever asks for it in the next seconds computes for himself, and waits for nobody."""
        if len(self._unkept) >= _REMEMBERED:
            self._unkept.clear()
        self._unkept[key] = monotonic() + leases.PASSAGE_SECONDS

    def is_unkept(self, key: str) -> bool:
        until = self._unkept.get(key)
        return until is not None and monotonic() < until

    # --- inside -------------------------------------------------------------------------------------------------------

    def _is_early(self, key: str, policy: CachePolicy, fresh_until: float, cost: float, now: float) -> bool:
        """Of those who ask in one process, one tries at a time: each try is a trip, and most likely others try, too."""
        if now < self._tried.get(key, 0.0):
            return False
        early = policy.is_early(fresh_until, cost, now, lambda: 1 - draw())
        if early:
            if len(self._tried) >= _REMEMBERED:
                self._tried.clear()
            self._tried[key] = now + cost / 4
        return early
