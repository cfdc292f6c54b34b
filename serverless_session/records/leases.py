"""Who computes a value that is missing, and who may keep what was computed: leases, sans-I/O.

Under the key of a value stands one of

    value      what was computed, its ends, and the stamps of its tags from before the computation
    lease      somebody computes: it ends by itself, in case nobody does any more
    tombstone  the value was invalidated a moment ago

and under the key beside it, while a value that still stands is computed anew, a lease. Rules, each a compare-and-set:

1. Who finds nothing puts a lease there and computes; who finds a lease waits until something else stands there.
2. What was computed replaces the lease, or the value, that its computation began with, and nothing else. So neither
   somebody who took too long, nor somebody whose data is from before an invalidation, keeps anything.
3. An invalidation leaves a tombstone. Deleting would be less: a copy of a lease's creation that comes late could put
   the lease there once more, and its holder would keep what he read before.
4. A value counts only if each of its tags has the stamp that was read before it was computed: a tag that is gone from
   the store says no more than one that was changed. A stamp is two random marks, of which the first one makes values
   dead where it is changed, the second one stale. A new one is made only where there is none.
5. Who waited long enough computes without a lease, and keeps the result only if the lease that he saw still stands.
6. A lease never moves the ends of the value beside it.

Generators that yield what to do, and are sent what came of it; they never wait, look at a clock or throw dice.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from serverless_session.errors import DamagedValue, StoreUnavailable
from serverless_session.records.records import Kept
from serverless_session.stores.contract import (
    ABSENT,
    ANYTHING,
    Conflict,
    Delete,
    Expected,
    Failed,
    Missing,
    Operation,
    Outcome,
    Read,
    Version,
    Write,
    Written,
    new_version,
)

if TYPE_CHECKING:
    from serverless_session.records.records import Vault

_T = TypeVar("_T")

TOMBSTONE_SECONDS: Final = 60.0
"""Longer than any copy of a creation can be on its way."""

FIRST_PAUSE: Final = 0.01
LONGEST_PAUSE: Final = 0.25
"""Seconds between two looks of somebody who waits for another's computation; each pause is twice the one before."""

MARK_BYTES: Final = 8
STAMP_SECONDS: Final = 366 * 24 * 3600.0
"""A stamp that is gone makes values a miss, no more; those that are used are asked for, and evicted last."""

_LEASE: Final = b"1l"
_TOMBSTONE: Final = b"1t"
_VALUE: Final = b"1v"


class Ask(NamedTuple):
    """Do these, in one call of the store. The answer is `Told`."""

    operations: Sequence[Operation]


class Pause(NamedTuple):
    """Wait so many seconds."""

    seconds: float


class Told(NamedTuple):
    """The outcomes of what was asked for, and what time it is now (seconds since 1970)."""

    outcomes: Sequence[Outcome]
    now: float


Steps = Generator[Ask | Pause, Told, _T]


class Ends(NamedTuple):
    """Until when a value is fresh, may be shown while it is computed anew, and may be shown where that fails.

    Seconds since 1970, in this order.
    """

    fresh: float
    stale: float
    error: float


class Entry(NamedTuple):
    """A value as it stands in the store. `cost`: seconds that its computation took. `stamps`: from before that.

    `is_stale`: a tag says that it is to be computed anew at its next use.
    """

    value: Any
    ends: Ends
    cost: float
    stamps: Mapping[str, bytes]
    is_stale: bool = False

    def __repr__(self) -> str:
        return "Entry()"


class Lease(NamedTuple):
    """The right to compute. `expect`: what the result replaces. `beside`: the lease beside a value that still stands.

    `stamps`: of the tags, from before the computation. `held`: False for who computes without one, having waited.
    """

    key: str
    expect: Expected
    stamps: Mapping[str, bytes]
    beside: tuple[str, Version] | None = None
    entry: Entry | None = None
    """What may be shown if the computation fails."""
    held: bool = True

    def __repr__(self) -> str:
        return "Lease()"


class Unavailable(NamedTuple):
    """The store could not be asked: compute, and keep nothing."""

    error: Exception


Found = Entry | Lease | Unavailable
"""`Entry`: show it. Anything else: compute."""


class Freshness(Enum):
    """`STALE`: computed anew by one, shown to all others meanwhile. `LAST_RESORT`: shown only where computing fails."""

    FRESH = auto()
    STALE = auto()
    LAST_RESORT = auto()
    DEAD = auto()


class Terms(NamedTuple):
    """`lease`: seconds after which somebody else may compute. `patience`: seconds to wait for another's computation.

    `is_early(entry, now)`: is it this request that computes a fresh value anew before it is stale? `refresh`: compute
    anew whatever stands there.
    """

    lease: float
    patience: float
    is_early: Callable[[Entry, float], bool] = lambda entry, now: False
    refresh: bool = False


class Place(NamedTuple):
    """Where a value stands: its key, the key beside it, and the keys of the tags that it has."""

    key: str
    beside: str
    tags: Sequence[str] = ()


def find(vault: Vault, place: Place, terms: Terms, now: float) -> Steps[Found]:
    """What stands under the key, if it may be shown; or the right to compute it."""
    expect: Expected = ABSENT
    gives_up_at, pause = now + terms.patience, FIRST_PAUSE
    while True:
        version = new_version()
        claim = Write(place.key, _LEASE, ttl=terms.lease, version=version, expect=expect, look_first=expect is ABSENT)
        told = yield Ask([claim, *map(Read, place.tags)])
        outcome, stamps = told.outcomes[0], _stamps(place.tags, told.outcomes[1:])
        if stamps is None:
            return _unavailable(told.outcomes)
        match outcome:
            case Written():
                return (yield from _stamped(Lease(place.key, version, stamps), place.tags))
            case Conflict(stands=Missing()):
                expect = ABSENT
                continue
            case Conflict(stands=Kept() as kept):
                entry = _entry(vault, kept, stamps)
            case _:
                return _unavailable(told.outcomes)
        if entry == _TOMBSTONE:
            expect = kept.version
            continue
        if isinstance(entry, Entry):
            freshness = _freshness(entry, terms, told.now)
            if freshness is Freshness.FRESH:
                return entry
            if freshness is Freshness.DEAD:
                expect = kept.version
                continue
            lease = yield from _claim_beside(place, terms, kept.version, entry)
            if isinstance(lease, Lease | Unavailable):
                return lease
            if freshness is Freshness.STALE:
                return entry
        # Somebody computes.
        if told.now >= gives_up_at:
            usable = entry if isinstance(entry, Entry) else None
            waited = Lease(place.key, kept.version, stamps, entry=usable, held=False)
            return (yield from _stamped(waited, place.tags))
        yield Pause(pause)
        expect, pause = ABSENT, min(2 * pause, LONGEST_PAUSE)


def keep(vault: Vault, lease: Lease, entry: Entry, now: float) -> Steps[bool]:
    """Keep what was computed under a lease. False: it was invalidated meanwhile, or somebody else was first."""
    ttl = max(entry.ends) - now
    if ttl <= 0:
        yield from give_back(lease)
        return False
    packed = _VALUE + vault.pack([[*entry.ends], entry.cost, dict(entry.stamps), entry.value])
    operations: list[Operation] = [Write(lease.key, packed, ttl=ttl, version=new_version(), expect=lease.expect)]
    if lease.beside is not None:
        operations.append(Delete(lease.beside[0], expect=lease.beside[1]))
    told = yield Ask(operations)
    return isinstance(told.outcomes[0], Written)


def give_back(lease: Lease) -> Steps[None]:
    """Let somebody else compute: it failed here, or the result must not be kept."""
    if lease.beside is not None:
        yield Ask([Delete(lease.beside[0], expect=lease.beside[1])])
    elif lease.held and isinstance(lease.expect, bytes):
        yield Ask([Delete(lease.key, expect=Version(lease.expect))])


def invalidate(keys: Sequence[str]) -> Steps[None]:
    """Nobody who asks from now on is shown what stands under these keys. Raises what the store says if it fails."""
    told = yield Ask(
        [Write(key, _TOMBSTONE, ttl=TOMBSTONE_SECONDS, version=new_version(), expect=ANYTHING) for key in keys]
    )
    for outcome in told.outcomes:
        if isinstance(outcome, Failed):
            raise outcome.error


def invalidate_tags(tags: Sequence[str]) -> Steps[None]:
    """Every value of these tags that was computed, or whose computation began, before this is a miss from now on."""
    told = yield Ask([_new_stamp(tag, os.urandom(2 * MARK_BYTES), ANYTHING) for tag in tags])
    for outcome in told.outcomes:
        if isinstance(outcome, Failed):
            raise outcome.error


def make_tags_stale(tags: Sequence[str]) -> Steps[None]:
    """Every such value is computed anew at its next use, and shown meanwhile."""
    waiting = list(tags)
    while waiting:
        told = yield Ask(list(map(Read, waiting)))
        changed: list[Write] = []
        for tag, outcome in zip(waiting, told.outcomes, strict=True):
            match outcome:
                case Kept(value=stamp, version=version):
                    changed.append(_new_stamp(tag, stamp[:MARK_BYTES] + os.urandom(MARK_BYTES), version))
                case Failed(error=error):
                    raise error  # a tag without a stamp has no values
        if not changed:
            return
        told = yield Ask(changed)
        for outcome in told.outcomes:
            if isinstance(outcome, Failed):
                raise outcome.error
        waiting = [
            write.key for write, outcome in zip(changed, told.outcomes, strict=True) if isinstance(outcome, Conflict)
        ]


# --- inside -----------------------------------------------------------------------------------------------------------


def _claim_beside(place: Place, terms: Terms, stands: Version, entry: Entry) -> Steps[Lease | Unavailable | None]:
    """The right to compute a value anew that still stands; None: somebody else has it."""
    version = new_version()
    claim = Write(place.beside, _LEASE, ttl=terms.lease, version=version, expect=ABSENT, look_first=True)
    told = yield Ask([claim])
    match told.outcomes[0]:
        case Written():
            lease = Lease(place.key, stands, entry.stamps, (place.beside, version), entry)
            return (yield from _stamped(lease, place.tags))
        case Conflict():
            return None
    return _unavailable(told.outcomes)


def _freshness(entry: Entry, terms: Terms, now: float) -> Freshness:
    if now >= max(entry.ends):
        return Freshness.DEAD
    if now < entry.ends.fresh and not entry.is_stale:
        return Freshness.STALE if terms.refresh or terms.is_early(entry, now) else Freshness.FRESH
    if now < entry.ends.stale or entry.is_stale:
        return Freshness.STALE
    return Freshness.LAST_RESORT


def _entry(vault: Vault, kept: Kept, stamps: Mapping[str, bytes]) -> Entry | bytes:
    """What stands there: a value, a lease or a tombstone; a value of which a tag has changed counts as the last."""
    kind, packed = kept.value[:2], kept.value[2:]
    if kind != _VALUE:
        return _LEASE if kind == _LEASE else _TOMBSTONE
    try:
        ends, cost, its_stamps, value = vault.unpack(packed)
    except (DamagedValue, ValueError, TypeError):
        return _TOMBSTONE
    if any(stamps.get(tag, b"")[:MARK_BYTES] != stamp[:MARK_BYTES] for tag, stamp in its_stamps.items()):
        return _TOMBSTONE
    now_stale = any(stamps[tag] != stamp for tag, stamp in its_stamps.items())
    return Entry(value, Ends(*ends), cost, stamps if now_stale else its_stamps, is_stale=now_stale)


def _stamps(tags: Sequence[str], outcomes: Sequence[Outcome]) -> dict[str, bytes] | None:
    """Those that there are; None: the store could not tell."""
    stamps = {}
    for tag, outcome in zip(tags, outcomes, strict=True):
        match outcome:
            case Kept(value=stamp):
                stamps[tag] = stamp
            case Missing():
                pass
            case _:
                return None
    return stamps


def _stamped(lease: Lease, tags: Sequence[str]) -> Steps[Lease | Unavailable]:
    """The lease, with a stamp for each tag, made where there was none: before anything is computed."""
    unknown = [tag for tag in tags if tag not in lease.stamps]
    if not unknown:
        return lease
    made = {tag: os.urandom(2 * MARK_BYTES) for tag in unknown}
    told = yield Ask(
        [Write(tag, made[tag], ttl=STAMP_SECONDS, version=new_version(), expect=ABSENT) for tag in unknown]
    )
    for tag, outcome in zip(unknown, told.outcomes, strict=True):
        match outcome:
            case Written():
                pass
            case Conflict(stands=Kept(value=stamp)):
                made[tag] = stamp
            case _:
                yield from give_back(lease)
                return _unavailable(told.outcomes)
    return lease._replace(stamps={**lease.stamps, **made})


def _new_stamp(tag: str, stamp: bytes, expect: Expected) -> Write:
    return Write(tag, stamp, ttl=STAMP_SECONDS, version=new_version(), expect=expect)


def _unavailable(outcomes: Sequence[Outcome]) -> Unavailable:
    failed = next((outcome for outcome in outcomes if isinstance(outcome, Failed)), None)
    return Unavailable(failed.error if failed is not None else StoreUnavailable("the store gave no answer"))
