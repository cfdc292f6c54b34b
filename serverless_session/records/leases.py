"""Who computes a value that is missing, and who may keep what was computed: leases, sans-I/O.

Under the key of a value stands one of

    value      what was computed, its ends, and the stamps of its tags from before the computation
    lease      somebody computes: it ends by itself, in case nobody does any more
    tombstone  the value was invalidated a moment ago
    passage    what was computed last must not be kept: whoever asks computes at once, and waits for nobody

and under the key beside it, while a value that still stands is computed anew, a lease. Rules, each a compare-and-set:

1. Who finds nothing puts a lease there and computes; who finds a lease waits until something else stands there.
2. What was computed replaces the lease, or the value, that its computation began with, and nothing else. So neither
   somebody who took too long, nor somebody whose data is from before an invalidation, keeps anything.
3. An invalidation leaves a tombstone. Deleting would be less: a copy of a lease's creation that comes late could put
   the lease there once more, and its holder would keep what he read before.
4. A value counts only as long as the stamps of its tags stand (`tags`).
5. Who waited long enough computes without a lease, and keeps the result only if the lease that he saw still stands.
6. A lease never moves the ends of the value beside it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any, Final, NamedTuple

from serverless_session.errors import DamagedValue, StoreUnavailable, ValueTooLarge
from serverless_session.records import tags as tags_
from serverless_session.records.records import MARK, Kept
from serverless_session.records.steps import Ask, Pause, Steps, all_done, all_told
from serverless_session.records.tags import STAMP_BYTES, Stamps
from serverless_session.stores.contract import (
    ABSENT,
    ANYTHING,
    Conflict,
    Delete,
    Expected,
    Failed,
    Missing,
    Outcome,
    Read,
    Version,
    Write,
    Written,
    new_version,
)

TOMBSTONE_SECONDS: Final = 60.0
"""Longer than any copy of a creation can be on its way."""

FIRST_PAUSE: Final = 0.01
LONGEST_PAUSE: Final = 0.1
"""Seconds between two looks of somebody who waits for another's computation; each pause is twice the one before."""

PASSAGE_SECONDS: Final = 10.0
"""How long nobody waits for what was not kept the last time."""

_LEASE: Final = MARK + b"l"
_PASSAGE: Final = MARK + b"p"
_TOMBSTONE: Final = MARK + b"t"
_VALUE: Final = b"1v"
_ERROR: Final = b"1e"

_HEAD: Final = struct.Struct(">2sddddH")
"""Kind, three ends, cost, number of tags. After it each tag (`_TAG_CHARACTERS` of its key, its stamp), and the rest."""
_TAG_CHARACTERS: Final = 43
"""The end of a store key: SHA-256 in base64. What stands in front is the same for all keys of a purpose."""


class Ends(NamedTuple):
    """Until when a value is fresh, may be shown while it is computed anew, and may be shown where that fails.

    Seconds since 1970, in this order.
    """

    fresh: float
    stale: float
    error: float


class Freshness(Enum):
    """`STALE`: computed anew by one, shown to all others meanwhile. `LAST_RESORT`: shown only where computing fails."""

    FRESH = auto()
    STALE = auto()
    LAST_RESORT = auto()


class Entry(NamedTuple):
    """What was computed, as it stands in the store: a value or, if `is_error`, what was raised.

    `value`: what `load` made of it. `cost`: seconds that its computation took. `stamps`: from before that.
    """

    value: Any
    is_error: bool
    ends: Ends
    cost: float
    stamps: Stamps
    version: Version
    freshness: Freshness = Freshness.FRESH
    waited: bool = False
    """Whoever found it waited for somebody else's computation."""

    def __repr__(self) -> str:
        return "Entry()"


class Computed(NamedTuple):
    """What is to be kept: a packed value or, if `is_error`, what was raised; `cost`: seconds that it took."""

    packed: bytes
    ends: Ends
    cost: float
    is_error: bool = False

    def __repr__(self) -> str:
        return "Computed()"


class Lease(NamedTuple):
    """The right to compute. `expect`: what the result replaces. `beside`: the lease beside a value that still stands.

    `stamps`: of the tags, from before the computation. `held`: False for who computes without one, having waited.
    """

    key: str
    expect: Version
    stamps: Stamps
    beside: tuple[str, Version] | None = None
    entry: Entry | None = None
    """What may be shown if the computation fails."""
    held: bool = True
    seconds: float = 0.0
    """How long it lasts."""
    is_passage: bool = False
    """What was computed last was not to be kept."""

    def __repr__(self) -> str:
        return "Lease()"


class Unavailable(NamedTuple):
    """The store could not be asked: compute, and keep nothing."""

    error: Exception


Found = Entry | Lease | Unavailable
"""`Entry`: show it. Anything else: compute."""

Load = Callable[[bytes, bool], Any]
"""What was packed, and whether it is an error, as it is shown. Raises `Unfit` for what counts as missing."""


class Unfit(Exception):
    """What is kept is not of the type that is asked for, or no longer."""


class Terms(NamedTuple):
    """`lease`: seconds after which somebody else may compute. `patience`: seconds to wait for another's computation.

    `soft`: seconds after which what may still be shown is shown to who waits. `is_early(entry, now)`: is
    it this request that computes a fresh value anew before it is stale? `refresh`: compute anew whatever stands there,
    after whoever computes now.
    """

    lease: float
    patience: float
    soft: float | None = None
    is_early: Callable[[Entry, float], bool] = lambda entry, now: False
    refresh: bool = False


class Place(NamedTuple):
    """Where a value stands: its key, and the keys of the tags that it must have to count.

    `late`: of tags that it may have besides.
    """

    key: str
    tags: Sequence[str] = ()
    late: Sequence[str] = ()

    @property
    def all_tags(self) -> list[str]:
        return [*self.tags, *self.late]

    @property
    def beside(self) -> str:
        """Where the lease stands while the value is computed anew."""
        return self.key + ":l"


def find(place: Place, terms: Terms, load: Load, now: float) -> Steps[Found]:
    """What stands under the key, if it may be shown; or the right to compute it."""
    expect: Expected = ABSENT
    known, waited = place.all_tags, False
    began, pause = now, FIRST_PAUSE
    while True:
        version = new_version()
        claim = Write(place.key, _LEASE, ttl=terms.lease, version=version, expect=expect, look_first=expect is ABSENT)
        told = yield Ask([claim, *map(Read, known)])
        stamps = tags_.read(known, told.outcomes[1:])
        if stamps is None:
            return _unavailable(told.outcomes)
        match told.outcomes[0]:
            case Written():
                lease = Lease(place.key, version, stamps, seconds=terms.lease)
                return (yield from _stamped(lease, known))
            case Conflict(stands=Missing()):
                expect = ABSENT
                continue
            case Conflict(stands=Kept() as kept):
                pass
            case Failed(DamagedValue()) if expect is ABSENT:
                yield from invalidate([place.key])  # nothing of it is readable, not even what it would have to replace
                continue
            case _:
                return _unavailable(told.outcomes)
        entry, kind = None, kept.value[:2]
        if kind == _PASSAGE:
            passage = Lease(place.key, kept.version, stamps, held=False, is_passage=True)
            return (yield from _stamped(passage, known))
        if kind != _LEASE:
            entry = _entry(place, kept, load)
            if entry is not None and not entry.stamps.keys() >= set(place.tags):
                entry = None  # from before it had that tag
            late = [tag for tag in entry.stamps if tag not in known] if entry is not None else []
            if late:
                known += late
                told = yield Ask(list(map(Read, late)))
                more = tags_.read(late, told.outcomes)
                if more is None:
                    return _unavailable(told.outcomes)
                stamps |= more
            if entry is not None:
                entry = _judged(entry, stamps, terms, told.now)
            if entry is None:
                expect = kept.version
                continue
            if entry.freshness is Freshness.FRESH:
                return entry._replace(waited=waited)
            beside = yield from _claim_beside(place, terms, entry, stamps, known)
            if beside is not None:
                return beside
            if entry.freshness is Freshness.STALE and not terms.refresh:
                return entry
        # Somebody computes.
        if entry is not None and terms.soft is not None and told.now >= began + terms.soft:
            return entry
        if told.now >= began + terms.patience:
            alone = Lease(place.key, kept.version, stamps, entry=entry, held=False)
            return (yield from _stamped(alone, known))
        yield Pause(pause)
        expect, pause, waited = ABSENT, min(2 * pause, LONGEST_PAUSE), True


class Fresh(NamedTuple):
    """A value that is fresh, packed."""

    packed: bytes
    fresh_until: float
    cost: float

    def __repr__(self) -> str:
        return "Fresh()"


def fresh(place: Place, outcomes: Sequence[Outcome], now: float) -> Fresh | None:
    """What was found by reading a value that was there before, and its tags: the short way of `find`.

    None: it is not so simple. A read takes half of what a claim does, and most looks end here.
    """
    kept = outcomes[0]
    if not isinstance(kept, Kept) or kept.value[:2] != _VALUE:
        return None
    body = kept.value
    _, fresh_until, _, _, cost, number = _HEAD.unpack_from(body)
    known = place.all_tags
    if now >= fresh_until or number != len(known):
        return None
    at = _HEAD.size
    for tag, outcome in zip(known, outcomes[1:], strict=True):
        ends = at + _TAG_CHARACTERS + STAMP_BYTES
        if not isinstance(outcome, Kept) or body[at:ends] != tag[-_TAG_CHARACTERS:].encode() + tags_.stamp_of(outcome):
            return None
        at = ends
    return Fresh(body[at:], fresh_until, cost)


def look(keys: Sequence[str], load: Load, generation: str) -> Steps[list[Entry | None]]:
    """What stands under each of the keys and is fresh or stale. Raises what the store says if it could not tell."""
    told = yield Ask([*map(Read, keys), Read(generation)])
    *values, generated = all_told(told)
    stamps = tags_.read([generation], [generated]) or {}
    entries = [
        _entry(Place(key), outcome, load) if isinstance(outcome, Kept) else None
        for key, outcome in zip(keys, values, strict=True)
    ]
    late = list({tag for entry in entries if entry is not None for tag in entry.stamps if tag != generation})
    if late:
        told = yield Ask(list(map(Read, late)))
        stamps |= tags_.read(late, told.outcomes) or {}
    judged = [None if entry is None else _judged(entry, stamps, _TERMS, told.now) for entry in entries]
    return [entry if entry is not None and entry.freshness in _MAY_BE_SHOWN else None for entry in judged]


def keep(lease: Lease, computed: Computed, stamps: Stamps, now: float) -> Steps[bool]:
    """Keep what was computed under a lease. False: it is not kept, because it was
    invalidated meanwhile, somebody else was first, its ends are over, or the store did not take it.

    `stamps`: of all its tags, from before the computation.
    """
    ttl = max(computed.ends) - now
    if ttl <= 0:
        yield from give_back(lease)
        return False
    operations: list[Write | Delete] = [
        Write(lease.key, _written(computed, stamps), ttl=ttl, version=new_version(), expect=lease.expect)
    ]
    if lease.beside is not None:
        operations.append(Delete(lease.beside[0], expect=lease.beside[1]))
    told = yield Ask(operations)
    match told.outcomes[0]:
        case Failed(ValueTooLarge()):
            yield from pass_by(lease)
    return isinstance(told.outcomes[0], Written)


def renew(lease: Lease, version: Version) -> Steps[Lease | bool]:
    """The lease, as long again, under a new version. True: it is not known whether it was done, so do the same again.

    False: somebody else has taken over, or it was invalidated.
    """
    key, expect = lease.beside if lease.beside is not None else (lease.key, lease.expect)
    told = yield Ask([Write(key, _LEASE, ttl=lease.seconds, version=version, expect=expect)])
    if not isinstance(told.outcomes[0], Written):
        return isinstance(told.outcomes[0], Failed)
    return lease._replace(expect=version) if lease.beside is None else lease._replace(beside=(key, version))


def give_back(lease: Lease) -> Steps[None]:
    """Let somebody else compute: it failed here, or the result must not be kept."""
    if lease.beside is not None:
        yield Ask([Delete(lease.beside[0], expect=lease.beside[1])])
    elif lease.held:
        yield Ask([Delete(lease.key, expect=lease.expect)])


def pass_by(lease: Lease) -> Steps[None]:
    """What was computed must not be kept, and probably not the next time either."""
    if lease.beside is not None:
        yield from give_back(lease)
    elif lease.held:
        passage = Write(lease.key, _PASSAGE, ttl=PASSAGE_SECONDS, version=new_version(), expect=lease.expect)
        yield Ask([passage])


def put(place: Place, computed: Computed, now: float) -> Steps[None]:
    """Keep a value whatever stands there, and whoever computes. Raises what the store says if it was not done."""
    told = yield Ask(list(map(Read, place.tags)))
    read = tags_.read(place.tags, told.outcomes)
    if read is None:
        all_done(told)
    stamps = yield from tags_.made(place.tags, read or {})
    if stamps is None:
        raise StoreUnavailable("the stamps of a value's tags could not be made")
    expect: Expected = ABSENT
    ttl = max(computed.ends) - now
    while True:
        written = Write(place.key, _written(computed, stamps), ttl=ttl, version=new_version(), expect=expect)
        told = yield Ask([written])
        match told.outcomes[0]:
            case Conflict(stands=Kept(version=version)):
                expect = version
            case Conflict():
                expect = ABSENT
            case Failed(DamagedValue()):
                yield from invalidate([place.key])
            case Failed(error=error):
                raise error
            case _:
                return


def invalidate(keys: Sequence[str]) -> Steps[None]:
    """Nobody who asks from now on is shown what stands under these keys. Raises what the store says if it fails."""
    all_done(
        (
            yield Ask(
                [Write(key, _TOMBSTONE, ttl=TOMBSTONE_SECONDS, version=new_version(), expect=ANYTHING) for key in keys]
            )
        )
    )


# --- inside -----------------------------------------------------------------------------------------------------------

_TERMS: Final = Terms(lease=1.0, patience=0.0)
_MAY_BE_SHOWN: Final = (Freshness.FRESH, Freshness.STALE)


def _claim_beside(
    place: Place, terms: Terms, entry: Entry, stamps: Stamps, known: Sequence[str]
) -> Steps[Lease | Unavailable | None]:
    """The right to compute a value anew that still stands; None: somebody else has it."""
    version = new_version()
    claim = Write(place.beside, _LEASE, ttl=terms.lease, version=version, expect=ABSENT, look_first=True)
    told = yield Ask([claim])
    match told.outcomes[0]:
        case Written():
            lease = Lease(place.key, entry.version, stamps, (place.beside, version), entry, seconds=terms.lease)
            return (yield from _stamped(lease, known))
        case Conflict():
            return None
    return _unavailable(told.outcomes)


def _stamped(lease: Lease, tags: Sequence[str]) -> Steps[Lease | Unavailable]:
    """The lease, with a stamp for each tag, made where there was none: before anything is computed."""
    stamps = yield from tags_.made(tags, lease.stamps)
    if stamps is None:
        yield from give_back(lease)
        return Unavailable(StoreUnavailable("the stamps of a value's tags could not be made"))
    return lease._replace(stamps=stamps)


def _judged(entry: Entry, stamps: Stamps, terms: Terms, now: float) -> Entry | None:
    """The entry, with its freshness; None: it is dead."""
    if now >= max(entry.ends) or tags_.are_dead(entry.stamps, stamps):
        return None
    stale = tags_.are_stale(entry.stamps, stamps)
    if now < entry.ends.fresh and not stale:
        anew = terms.refresh or terms.is_early(entry, now)
        return entry._replace(freshness=Freshness.STALE) if anew else entry
    return entry._replace(freshness=Freshness.STALE if stale or now < entry.ends.stale else Freshness.LAST_RESORT)


def _written(computed: Computed, stamps: Stamps) -> bytes:
    kind = _ERROR if computed.is_error else _VALUE
    head = _HEAD.pack(kind, *computed.ends, computed.cost, len(stamps))
    return b"".join(
        [head, *(tag[-_TAG_CHARACTERS:].encode() + stamp for tag, stamp in stamps.items()), computed.packed]
    )


def _entry(place: Place, kept: Kept, load: Load) -> Entry | None:
    """The value or error that stands there; None: a lease, a tombstone, or what is not of the type asked for."""
    body = kept.value
    if body[:2] not in (_VALUE, _ERROR):
        return None
    try:
        kind, fresh, stale, error, cost, number = _HEAD.unpack_from(body)
        at, stamps, prefix = _HEAD.size, {}, place.key[:-_TAG_CHARACTERS]
        for _ in range(number):
            tag, at = prefix + body[at : at + _TAG_CHARACTERS].decode("ascii"), at + _TAG_CHARACTERS
            stamps[tag], at = body[at : at + STAMP_BYTES], at + STAMP_BYTES
        is_error = kind == _ERROR
        return Entry(load(body[at:], is_error), is_error, Ends(fresh, stale, error), cost, stamps, kept.version)
    except (Unfit, DamagedValue, ValueError, struct.error):
        return None


def _unavailable(outcomes: Sequence[Outcome]) -> Unavailable:
    failed = next((outcome for outcome in outcomes if isinstance(outcome, Failed)), None)
    return Unavailable(failed.error if failed is not None else StoreUnavailable("the store gave no answer"))
