"""One value computed, and kept if it may be: what becomes of a lease, whatever comes of the computation."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic
from typing import Any, Final

from serverless_session.caching.answers import Answered, Loaded, Wanted, answered
from serverless_session.caching.context import CacheContext, NotModified
from serverless_session.caching.guarded import GuardedStore
from serverless_session.caching.policy import LONGEST_SECONDS, CachePolicy
from serverless_session.caching.prolonging import Prolonged
from serverless_session.caching.raised import error_of, plain_of
from serverless_session.caching.shapes import Shape
from serverless_session.caching.stats import Answer
from serverless_session.deadline import Duration, seconds
from serverless_session.errors import ComputationTimeout, ValueNotSerializable
from serverless_session.records import leases, tags
from serverless_session.records.leases import Computed, Entry, Freshness, Lease, Unfit
from serverless_session.records.records import Records
from serverless_session.shared import SharedState

draw: Final = random.SystemRandom().random
"""The system's: copies of one snapshot must not draw the same."""


class Computing:
    """A value is being computed. What that has begun may outlive it: then `is_over`."""

    __slots__ = ("is_over", "key")

    def __init__(self, key: str) -> None:
        self.key = key
        self.is_over = False


computing: ContextVar[tuple[Computing, ...]] = ContextVar("serverless_session_computing", default=())
"""What is being computed around here: who asks for one of them again would wait for himself."""


def is_computing(key: str) -> bool:
    """Does whoever asks for this compute it himself?"""
    around = computing.get()  # mostly nothing, and a generator over nothing takes 0.3 us
    return bool(around) and any(one.key == key and not one.is_over for one in around)


class Computation:
    """Computes, for one cache. `tag_key`: the key of a tag; `watch`: that of the watch over late tags."""

    def __init__(
        self, shared: SharedState, records: Records, store: GuardedStore, tag_key: Callable[[str], str], watch: str
    ) -> None:
        self._shared = shared
        self._records = records
        self._store = store
        self._tag_key = tag_key
        self._watch = watch

    async def compute(self, wanted: Wanted, lease: Lease | None) -> Answered:
        """What comes of it: kept, if it may be. Raises what the computation raises."""
        entry = lease.entry if lease is not None and lease.entry is not None and not lease.entry.is_error else None
        load = loader(self._records, wanted.shape, wanted.policy)
        # The computation may change its own, which is nobody's but the one's to whom it is given.
        stale = None if entry is None else load(entry.value.packed, False).value
        context = CacheContext(wanted.tags, stale, has_stale=entry is not None)
        began, renewed = monotonic(), None if lease is None else Prolonged(self._store, lease)
        watch, is_old = None, False
        try:
            if lease is not None and wanted.takes_context:
                watch = await self._store.carry_out(tags.watched(self._watch))
            try:
                value = await self._computed(wanted, context)
            except NotModified:
                if entry is None:
                    raise RuntimeError("NotModified was raised, and nothing is stale: ask context.has_stale") from None
                value, is_old = load(entry.value.packed, False).value, True
            cost = monotonic() - began
            plain = wanted.shape.dump(value)
            packed = self._records.pack(plain)
            lease = lease if renewed is None else await renewed.stop()
            is_none = value is None and context.ttl is None
            ends = self._ends(wanted.policy, context, is_none=is_none)
            computed = Computed(packed, ends, cost)
            kept = await self._keep(wanted, context, lease, computed, watch, entry if is_old else None)
        except Exception as error:
            lease = lease if renewed is None else await renewed.stop()
            if lease is not None:
                await self._give_up(wanted, context, lease, error, monotonic() - began, watch)
            may_show = entry is not None and not wanted.refresh and not isinstance(error, ValueNotSerializable)
            if may_show and entry is not None and self._may_be_shown(entry):
                return answered(entry._replace(freshness=Freshness.LAST_RESORT))
            if context.store:
                raise
            return Answered(Answer.MISS, monotonic() - began, error=error, for_all=False)
        except BaseException:
            if renewed is not None:
                await self._store.carry_out(leases.give_back(await renewed.stop()), insist=True)
            raise
        loaded = Loaded(value, plain, packed)
        answer = Answer.MISS if lease is not None else Answer.ERROR
        if kept is None:
            late = list(map(self._tag_key, context.tags)) if context.store else []
            return Answered(answer, cost, loaded, tags=late, for_all=context.store)
        return Answered(answer, cost, loaded, is_kept=True, fresh_until=ends.fresh, tags=kept)

    async def _computed(self, wanted: Wanted, context: CacheContext) -> Any:
        hard = wanted.policy.hard_timeout
        limit, here = asyncio.timeout(None if hard is None else seconds(hard)), Computing(wanted.place.key)
        token = computing.set((*computing.get(), here))
        try:
            async with limit:
                return await wanted.compute(context)
        except TimeoutError:
            if limit.expired():
                assert hard is not None
                raise ComputationTimeout(seconds(hard)) from None
            raise
        finally:
            here.is_over = True
            computing.reset(token)

    def _ends(self, policy: CachePolicy, context: CacheContext, *, is_none: bool) -> leases.Ends:
        now = self._shared.clock.time()
        negative = policy.negative_ends(now) if is_none else None
        ttl = None if context.ttl is None else _checked_ttl(context.ttl)
        return negative or policy.ends(now, draw(), ttl=ttl)

    async def _keep(
        self,
        wanted: Wanted,
        context: CacheContext,
        lease: Lease | None,
        computed: Computed,
        watch: bytes | None,
        again: Entry | None = None,
    ) -> dict[str, bytes] | None:
        """The stamps of its tags, if it was kept. `again`: what is kept for longer, with the tags that it had."""
        if lease is None:
            return None
        if not context.store:
            await self._store.carry_out(leases.pass_by(lease), insist=True)
            return None
        stamps = await self._stamps(wanted, context, lease, watch)
        if stamps is None:
            await self._store.carry_out(leases.give_back(lease), insist=True)
            return None
        if again is not None:
            stamps = {tag: lease.stamps[tag] for tag in again.stamps} | stamps
        kept = await self._store.carry_out(leases.keep(lease, computed, stamps, self._shared.clock.time()), insist=True)
        return stamps if kept else None

    async def _stamps(
        self, wanted: Wanted, context: CacheContext, lease: Lease, watch: bytes | None
    ) -> dict[str, bytes] | None:
        """Those of all tags, from before the computation; None: nobody knows."""
        stamps = {tag: lease.stamps[tag] for tag in wanted.place.tags}
        if tuple(context.tags) == wanted.tags:
            return stamps
        if not all(isinstance(tag, str) for tag in context.tags):
            raise TypeError("the tags of a CacheContext are texts")
        late = [self._tag_key(tag) for tag in context.tags]
        found = await self._store.carry_out(tags.late(late, lease.stamps, self._watch, watch))
        return None if found is None else stamps | {tag: found[tag] for tag in late}

    async def _give_up(
        self,
        wanted: Wanted,
        context: CacheContext,
        lease: Lease,
        error: Exception,
        cost: float,
        watch: bytes | None,
    ) -> None:
        """What was raised is kept, if it is to be; else somebody else may compute."""
        negative = None
        if context.store and not isinstance(error, ValueNotSerializable):
            negative = self._negative(wanted.policy, error)
        if negative is not None:
            packed, ends = negative
            await self._keep(wanted, context, lease, Computed(packed, ends, cost, is_error=True), watch)
        elif context.store:
            await self._store.carry_out(leases.give_back(lease), insist=True)
        else:
            await self._store.carry_out(leases.pass_by(lease), insist=True)

    def _negative(self, policy: CachePolicy, error: Exception) -> tuple[bytes, leases.Ends] | None:
        """An exception in bytes, and its ends, if it is one that is kept."""
        ends = policy.negative_ends(self._shared.clock.time())
        if ends is None or not isinstance(error, policy.negative_errors):
            return None
        try:
            packed = self._records.pack(plain_of(error))
            same = error_of(self._records.unpack(packed), policy.negative_errors)
        except (ValueNotSerializable, Unfit):
            return None
        return (packed, ends) if same.args == error.args and str(same) == str(error) else None

    def _may_be_shown(self, entry: Entry) -> bool:
        """Where computing fails."""
        return self._shared.clock.time() < entry.ends.error


def loader(records: Records, shape: Shape, policy: CachePolicy | None) -> leases.Load:
    """What makes of packed bytes what is shown."""

    def load(packed: bytes, is_error: bool) -> Any:
        plain = records.unpack(packed)
        if is_error:
            return error_of(plain, policy.negative_errors if policy is not None else ())
        return Loaded(shape.load(plain), plain, packed)

    return load


def _checked_ttl(ttl: Duration) -> float:
    span = seconds(ttl)
    if not 0 < span <= LONGEST_SECONDS:
        raise ValueError("the ttl of a CacheContext is a number of seconds above 0, or a timedelta")
    return span
