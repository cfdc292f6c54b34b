"""One value: found, or computed and kept. `leases` and `tags` decide; this carries out and measures."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextvars import ContextVar
from time import monotonic
from typing import Any, Final, NamedTuple

from serverless_session.caching.context import CacheContext, NotModified
from serverless_session.caching.flights import Rest
from serverless_session.caching.guarded import GuardedStore
from serverless_session.caching.policy import LONGEST_SECONDS, CachePolicy
from serverless_session.caching.shapes import ANYTHING, Shape
from serverless_session.caching.stats import Answer
from serverless_session.deadline import Duration, has_invocation_end, seconds, time_left
from serverless_session.errors import ComputationTimeout, ValueNotSerializable
from serverless_session.records import leases, tags
from serverless_session.records.leases import Computed, Entry, Freshness, Lease, Place, Terms, Unfit
from serverless_session.records.records import Records
from serverless_session.shared import SharedState
from serverless_session.stores.contract import Read, new_version

LEASE_SECONDS: Final = 3.0
"""How long a lease lasts that is not prolonged, as that of a process that was killed; less if the invocation ends."""

LEAST_LEASE_SECONDS: Final = 0.1
"""However little time remains: a ttl is above 0."""

PATIENCE_WITH_OTHERS: Final = 10.0
"""Seconds to wait for another's computation."""

_random: Final = random.SystemRandom().random
"""The system's: copies of one snapshot must not draw the same."""

_REMEMBERED: Final = 4096


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
    return any(one.key == key and not one.is_over for one in computing.get())


class Loaded(NamedTuple):
    """What is kept, as it is shown (`value`), before its shape was put to it (`plain`), and in bytes."""

    value: Any
    plain: Any
    packed: bytes

    def __repr__(self) -> str:
        return "Loaded()"


class Answered(NamedTuple):
    """`cost`: seconds that the computation took. `loaded`: None for what is raised, which is the `error`.

    `is_kept`, `fresh_until`, `tags`: whether the store has it, until when it is fresh, and the keys of its tags.
    `for_all`: whoever asked before it was computed may have it, too.
    """

    answer: Answer
    cost: float
    loaded: Loaded | None = None
    error: Exception | None = None
    is_kept: bool = False
    fresh_until: float = 0.0
    tags: Collection[str] = ()
    for_all: bool = True

    def __repr__(self) -> str:
        return f"Answered({self.answer})"


class Wanted(NamedTuple):
    """What a call wants. `takes_context`: the computation may give the value tags of its own. `expects`: it was there.

    `tags`: what they are called; their keys stand in `place`.
    """

    place: Place
    compute: Callable[[CacheContext], Awaitable[Any]]
    policy: CachePolicy
    shape: Shape
    tags: tuple[str, ...] = ()
    takes_context: bool = False
    refresh: bool = False
    expects: bool = False
    patience: float = PATIENCE_WITH_OTHERS


class Lookup:
    """Looks values up, for one cache. `tag_key`: the key of a tag; `watch`: that of the watch over late tags."""

    def __init__(
        self, shared: SharedState, records: Records, store: GuardedStore, tag_key: Callable[[str], str], watch: str
    ) -> None:
        self._shared = shared
        self._records = records
        self._store = store
        self._tag_key = tag_key
        self._watch = watch
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
        load = self.loader(wanted.shape, policy)
        found = await self._store.carry_out(leases.find(wanted.place, terms, load, self._shared.clock.time()))
        if isinstance(found, Entry):
            return answered(found)
        lease = found if isinstance(found, Lease) else None
        entry = lease.entry if lease is not None else None
        if entry is None or wanted.refresh:
            unkept = lease is not None and not lease.held and lease.is_passage
            if unkept:
                self.note_unkept(wanted.place.key)
            return Rest(lambda: self._compute(wanted, lease), alone=unkept)
        return Rest(
            lambda: self._compute(wanted, lease),
            alone=True,
            soft=soft,
            meanwhile=answered(entry._replace(freshness=Freshness.STALE)),
            goes_on=not has_invocation_end(),
        )

    async def _look_again(self, wanted: Wanted) -> Answered | bool:
        """What was there when this process looked last, if it still is, and fresh. Else: is it time to refresh it?"""
        place, now = wanted.place, self._shared.clock.time()
        outcomes = await self._store.ask([Read(place.key), *map(Read, place.all_tags)])
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

    def loader(self, shape: Shape, policy: CachePolicy | None) -> leases.Load:
        """What makes of packed bytes what is shown."""
        unpack = self._records.unpack

        def load(packed: bytes, is_error: bool) -> Any:
            plain = unpack(packed)
            if is_error:
                return _error_of(plain, policy.negative_errors if policy is not None else ())
            return Loaded(shape.load(plain), plain, packed)

        return load

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

    async def _compute(self, wanted: Wanted, lease: Lease | None) -> Answered:
        entry = lease.entry if lease is not None and lease.entry is not None and not lease.entry.is_error else None
        load = self.loader(wanted.shape, wanted.policy)
        # The computation may change its own, which is nobody's but the one's to whom it is given.
        stale = None if entry is None else load(entry.value.packed, False).value
        context = CacheContext(wanted.tags, stale, has_stale=entry is not None)
        began, renewed = monotonic(), None if lease is None else _Renewed(self._store, lease)
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
            return Answered(answer, cost, loaded, for_all=context.store)
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
        return negative or policy.ends(now, _random(), ttl=ttl)

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
        plain = [_name(type(error)), list(error.args), {k: v for k, v in vars(error).items() if k != "__notes__"}]
        try:
            packed = self._records.pack(plain)
            same = _error_of(self._records.unpack(packed), policy.negative_errors)
        except (ValueNotSerializable, Unfit):
            return None
        return (packed, ends) if same.args == error.args and str(same) == str(error) else None

    def _is_early(self, key: str, policy: CachePolicy, fresh_until: float, cost: float, now: float) -> bool:
        """Of those who ask in one process, one tries at a time: each try is a trip, and most likely others try, too."""
        if now < self._tried.get(key, 0.0):
            return False
        early = policy.is_early(fresh_until, cost, now, lambda: 1 - _random())
        if early:
            if len(self._tried) >= _REMEMBERED:
                self._tried.clear()
            self._tried[key] = now + cost / 4
        return early

    def _may_be_shown(self, entry: Entry) -> bool:
        """Where computing fails."""
        return self._shared.clock.time() < entry.ends.error


class _Renewed:
    """A lease that is prolonged while something is computed that takes longer than it lasts."""

    def __init__(self, store: GuardedStore, lease: Lease) -> None:
        self._store = store
        self._lease = lease
        self._version = new_version()
        self._ends_at = monotonic() + lease.seconds
        self._is_over = False
        self._renewing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wait()

    async def stop(self) -> Lease:
        """The lease as it stands now."""
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._renewing is not None:
            await asyncio.wait([self._renewing])
        return self._lease

    def _wait(self) -> None:
        left = self._ends_at - monotonic()
        if self._lease.held and not self._is_over and left > 0:
            self._timer = asyncio.get_running_loop().call_later(left / 3, self._begin)

    def _begin(self) -> None:
        self._renewing = asyncio.ensure_future(self._renew())

    async def _renew(self) -> None:
        asked_at = monotonic()
        renewed = await self._store.carry_out(leases.renew(self._lease, self._version), insist=True)
        if isinstance(renewed, Lease):
            self._lease, self._version, self._ends_at = renewed, new_version(), asked_at + renewed.seconds
        if renewed is not False:
            self._wait()


def _checked_ttl(ttl: Duration) -> float:
    span = seconds(ttl)
    if not 0 < span <= LONGEST_SECONDS:
        raise ValueError("the ttl of a CacheContext is a number of seconds above 0, or a timedelta")
    return span


def answered(entry: Entry) -> Answered:
    """What stands in the store, as an answer."""
    fresh = Answer.WAIT if entry.waited else Answer.HIT
    answer = fresh if entry.freshness is Freshness.FRESH else Answer.STALE
    if entry.is_error:
        return Answered(answer, entry.cost, error=entry.value)
    return Answered(answer, entry.cost, entry.value, is_kept=True, fresh_until=entry.ends.fresh, tags=entry.stamps)


def _error_of(plain: Any, kinds: tuple[type[Exception], ...]) -> Exception:
    """An exception that was kept, of one of these types or one below it; it is made without its constructor."""
    try:
        name, args, state = plain
        for kind in _with_all_below(kinds):
            if _name(kind) == name:
                error: Exception = kind.__new__(kind, *args)
                error.args = tuple(args)
                error.__dict__.update(state)
                return error
    except (ValueError, TypeError):
        pass
    raise Unfit


def _with_all_below(kinds: tuple[type[Exception], ...]) -> Iterator[type[Exception]]:
    for kind in kinds:
        yield kind
        yield from _with_all_below(tuple(kind.__subclasses__()))


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
