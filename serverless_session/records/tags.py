"""Tags: many values that are invalidated by one write, without a list of them anywhere. Sans-I/O.

A tag has a *stamp* in the store: two random marks, of which the first makes values dead where it is changed, the second
one stale. A value carries the stamps that its tags had before it was computed, and counts only as long as they stand.

1. A tag without a stamp says no more than one whose stamp was changed: the store may have forgotten an invalidation. So
   that makes values dead, and a new stamp is made only where there is none.
2. A value may get tags that are known only once it is computed (*late* tags). Their stamps are read afterwards, so one
   may be that of an invalidation which the computation did not see. The *watch* tells: one more mark, for all tags,
   that every invalidation changes before it changes a stamp. If it is after reading the stamps what it was before the
   computation, they were so before it, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from serverless_session.errors import DamagedValue
from serverless_session.records.records import MARK, Kept
from serverless_session.records.steps import Ask, Steps, all_done, all_told
from serverless_session.stores.contract import (
    ABSENT,
    ANYTHING,
    Conflict,
    Expected,
    Failed,
    Missing,
    Outcome,
    Read,
    Write,
    Written,
    new_version,
)

MARK_BYTES: Final = 8
STAMP_BYTES: Final = 2 * MARK_BYTES
STAMP_SECONDS: Final = 366 * 24 * 3600.0
"""A stamp that is gone makes values a miss, no more; those that are used are asked for, and evicted last."""

_STAMP: Final = MARK + b"s"

Stamps = Mapping[str, bytes]
"""Each by the store key of its tag."""


def invalidate_tags(tags: Sequence[str], watch: str) -> Steps[None]:
    """Every value of these tags that was computed, or whose computation began, before this is a miss from now on.

    Raises what the store says if it was not done.
    """
    yield from renew([watch])
    yield from renew(tags)


def renew(tags: Sequence[str]) -> Steps[None]:
    """A new stamp for each of these. Alone, without the watch, only for those that are never late."""
    all_done((yield Ask([_put(tag, os.urandom(STAMP_BYTES), ANYTHING) for tag in tags])))


def make_tags_stale(tags: Sequence[str], watch: str) -> Steps[None]:
    """Every such value is computed anew at its next use, and shown meanwhile. Raises as `invalidate_tags` does."""
    yield from renew([watch])
    waiting = list(tags)
    while waiting:
        stands = all_told((yield Ask(list(map(Read, waiting)))))
        changed = [
            _put(tag, stamp_of(kept)[:MARK_BYTES] + os.urandom(MARK_BYTES), kept.version)
            for tag, kept in zip(waiting, stands, strict=True)
            if isinstance(kept, Kept)  # a tag without a stamp has no values
        ]
        if not changed:
            return
        outcomes = all_done((yield Ask(changed)))
        waiting = [write.key for write, outcome in zip(changed, outcomes, strict=True) if isinstance(outcome, Conflict)]


def stamp_of(kept: Kept) -> bytes:
    """What stands under a tag."""
    return kept.value[len(_STAMP) :]


def read(tags: Sequence[str], outcomes: Iterable[Outcome]) -> dict[str, bytes] | None:
    """The stamps that there are, of the outcomes of reading them; None: the store could not tell."""
    stamps: dict[str, bytes] = {}
    for tag, outcome in zip(tags, outcomes, strict=True):
        match outcome:
            case Kept() as kept:
                stamps[tag] = stamp_of(kept)
            case Missing() | Failed(DamagedValue()):
                pass
            case _:
                return None
    return stamps


def made(tags: Sequence[str], stamps: Stamps) -> Steps[dict[str, bytes] | None]:
    """The stamps, with one for each of `tags`, made where there is none; None: the store could not do it."""
    found = dict(stamps)
    unknown = [tag for tag in tags if tag not in found]
    if unknown:
        new = {tag: os.urandom(STAMP_BYTES) for tag in unknown}
        told = yield Ask([_put(tag, stamp, ABSENT) for tag, stamp in new.items()])
        for tag, outcome in zip(unknown, told.outcomes, strict=True):
            match outcome:
                case Written():
                    found[tag] = new[tag]
                case Conflict(stands=Kept() as kept):
                    found[tag] = stamp_of(kept)
                case Failed(DamagedValue()):  # nobody can have a value with what stood there
                    again = yield Ask([_put(tag, new[tag], ANYTHING)])
                    if not isinstance(again.outcomes[0], Written):
                        return None
                    found[tag] = new[tag]
                case _:
                    return None
    return found


def watched(watch: str) -> Steps[bytes | None]:
    """What the watch is before a computation that may have late tags."""
    stands = yield from made([watch], {})
    return None if stands is None else stands[watch]


def late(tags: Sequence[str], stamps: Stamps, watch: str, was: bytes | None) -> Steps[dict[str, bytes] | None]:
    """The stamps, with those of late tags; None: one of them may have been changed since the computation began."""
    unknown = [tag for tag in tags if tag not in stamps]
    if not unknown:
        return dict(stamps)
    told = yield Ask(list(map(Read, unknown)))
    found = read(unknown, told.outcomes)
    found = None if found is None else (yield from made(unknown, found))
    if found is None or was is None:
        return None
    told = yield Ask([Read(watch)])  # after the stamps: they may not be changed between the two
    match told.outcomes[0]:
        case Kept(value=now) if now == _STAMP + was:
            return {**stamps, **found}
    return None


def are_dead(its: Stamps, now: Stamps) -> bool:
    """Has a tag of a value that carries `its` stamps been invalidated, or been forgotten by the store?"""
    return any(now.get(tag, b"")[:MARK_BYTES] != stamp[:MARK_BYTES] for tag, stamp in its.items())


def are_stale(its: Stamps, now: Stamps) -> bool:
    """Is such a value, if it is not dead, to be computed anew?"""
    return any(now.get(tag) != stamp for tag, stamp in its.items())


def _put(key: str, stamp: bytes, expect: Expected) -> Write:
    return Write(key, _STAMP + stamp, ttl=STAMP_SECONDS, version=new_version(), expect=expect)
