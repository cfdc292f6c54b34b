"""One attempt of a call to Memcached: which commands carry its operations out, and what their answers mean.

A value is kept as its 8-byte version followed by the bytes. Memcached compares a number of its own (`cas`), which
begins again when the server does; so ours is the version, and the server's number is a hint that travels with it, good
only on the connection that read it. On any other the value is read again and our version compared first.

| operation | commands, a trip each |
|---|---|
| reads, and whatever must look first: all of them together | `gets` |
| write, nothing expected there | `add`; refused: `gets` shows by whom |
| write over a version | `cas`, if this connection read it; else `gets`, `cas` |
| delete of a version | the same, with a value that is dead at once |
| write, delete of anything | `set`, `delete` |

What is refused looks again, for a refusal does not tell by whom.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Final

from serverless_session.errors import StoreUnavailable, WriteUncertain
from serverless_session.stores.contract import (
    ABSENT,
    ANYTHING,
    VERSION_BYTES,
    Conflict,
    Delete,
    Deleted,
    Failed,
    Found,
    Missing,
    Operation,
    Outcome,
    Read,
    Version,
    Write,
    Written,
)
from serverless_session.stores.memcached_links import MemcachedLink, Refused
from serverless_session.stores.settling import Attempt

_LONGEST_SPAN: Final = 30 * 24 * 3600
"""Seconds; memcached takes a larger number for a date."""
_LAST_DATE: Final = 2**31 - 1
"""A later one wraps around, and the value is born dead."""

_NO_NUMBER: Final = b"0"
"""What `gets` shows under `memcached -C`, where `cas` would be refused for ever."""

_REMOVES: Final = ("object too large for cache", "out of memory storing object")
"""What it could not replace by a `set`, memcached removes; by `add` and `cas`, it does not."""

_MENDS: Final = {
    "object too large for cache": "memcached -I with that size or more, or MemcachedStore(largest_value_bytes=)",
    "out of memory storing object": "more memory for it: memcached -m; or without -M if it may forget",
    **dict.fromkeys(
        ("unauthenticated", "authentication failure", "bad authentication token format"),
        "memcached without -Y: pymemcache cannot authenticate",
    ),
}


# --- versions, and the hint that travels with them --------------------------------------------------------------------


class HintedVersion(bytes):
    """A version as one connection read it: `number` is the server's cas, good on the connection with that `life`."""

    number: bytes
    life: object


def _found(kept: bytes, number: bytes, life: object) -> Found:
    version = HintedVersion(kept[:VERSION_BYTES].ljust(VERSION_BYTES, b"\0"))
    version.number, version.life = number, life
    return Found(kept[VERSION_BYTES:], Version(version))


def hints_of(operations: Iterable[Operation]) -> Iterable[HintedVersion]:
    """The hints among the versions that are expected."""
    for operation in operations:
        if not isinstance(operation, Read) and isinstance(operation.expect, HintedVersion):
            yield operation.expect


# --- one attempt over one connection ----------------------------------------------------------------------------------


class Conversation:
    """Round after round: looks where it must, all in one trip, and sends what may go, until everything is answered."""

    def __init__(self, link: MemcachedLink, attempt: Attempt) -> None:
        self._link = link
        self._attempt = attempt
        self._numbers: dict[int, bytes] = {}

    def hold(self) -> None:
        to_look, ready = list[int](), list[int]()
        for place, operation in self._attempt.waiting.items():
            hint = next(iter(hints_of([operation])), None)
            if hint is not None and hint.life is self._link.life:
                self._numbers[place] = hint.number
                ready.append(place)
            elif _must_look(operation):
                to_look.append(place)
            else:
                ready.append(place)
        refused = list[int]()
        while to_look or ready:
            ready += self._look(to_look, refused)
            to_look = refused = [place for place in ready if not self._send(place)]
            ready = []

    def _look(self, places: list[int], refused: list[int]) -> list[int]:
        """Answer what a look decides; the rest is ready to be sent. `refused`: those that were sent already."""
        if not places:
            return []
        keys = {self._attempt.waiting[place].key: place for place in places}
        life = self._link.life
        try:
            found = self._link.look(list(keys), self._attempt.look)
        except Refused as refusal:
            self._numbers.clear()
            for place in places:
                self._attempt.answer(place, _refusal(refusal))
            return []
        ready = []
        for key, place in keys.items():
            stands = _found(*found[key], life) if key in found else Missing()
            outcome = self._decide(place, stands, was_refused=place in refused)
            if outcome is not None:
                self._attempt.answer(place, outcome)
                continue
            if key in found:
                if found[key][1] == _NO_NUMBER:
                    self._attempt.answer(place, _compares_nothing())
                    continue
                self._numbers[place] = found[key][1]
            ready.append(place)
        return ready

    def _decide(self, place: int, stands: Found | Missing, *, was_refused: bool) -> Outcome | None:
        match self._attempt.waiting[place]:
            case Read():
                return stands
            case Write(version=version) if isinstance(stands, Found) and stands.version == version:
                return Written()
            case Write(expect=expect):
                if not stands.meets(expect):
                    return Conflict(stands)
                if was_refused and expect is ABSENT and self._attempt.is_in_doubt(place):
                    return Conflict(stands)  # what refused us is gone; it may have been our first copy
            case Delete(expect=expect):
                if isinstance(stands, Missing):
                    return stands
                if not stands.meets(expect):
                    return Conflict(stands)
        return None

    def _send(self, place: int) -> bool:
        """Send it, and answer it unless it was refused: then another look tells what stands there."""
        operation, link = self._attempt.waiting[place], self._link

        def sent() -> None:
            self._attempt.send(place)

        outcome: Outcome | None
        done: bool | None
        try:
            match operation:
                case Read():
                    raise AssertionError("a look answers it")
                case Write(key=key, version=version, value=value, ttl=ttl, expect=expect):
                    kept, expire = version + value, _expire(ttl)
                    if expect is ANYTHING:
                        link.put(key, kept, expire, sent)
                        done = True
                    elif expect is ABSENT:
                        done = link.add(key, kept, expire, sent)
                    elif place in self._numbers:
                        done = link.replace(key, kept, self._numbers.pop(place), expire, sent)
                    else:  # the connection was made anew since it was read
                        return False
                    outcome = Written() if done else Conflict(Missing()) if done is None else None
                case Delete(key=key, expect=expect):
                    if expect is ANYTHING:
                        done = link.delete(key, sent) or None
                    elif place in self._numbers:
                        done = link.remove(key, self._numbers.pop(place), sent)
                    else:
                        return False
                    outcome = Deleted() if done else Missing() if done is None else None
        except Refused as refusal:
            self._numbers.clear()
            outcome = _refusal(refusal, operation)
        if outcome is None:
            return False
        self._attempt.answer(place, outcome)
        return True


def _must_look(operation: Operation) -> bool:
    match operation:
        case Read():
            return True
        case Write(expect=expect, look_first=look_first):
            return look_first if expect is ABSENT else expect is not ANYTHING
        case Delete(expect=expect):
            return expect is not ANYTHING


def _refusal(refusal: Refused, operation: Operation | None = None) -> Failed:
    reason = str(refusal)
    if isinstance(operation, Write) and operation.expect is ANYTHING and reason in _REMOVES:
        return Failed(WriteUncertain(f"memcached refused a write ({reason}), and has removed what stood there"))
    mend = _MENDS.get(reason, "what memcached's log says (memcached -vv)")
    known = f" ({reason})" if reason in _MENDS else ""
    return Failed(StoreUnavailable(f"memcached refused a command{known}", mend=mend))


def _compares_nothing() -> Failed:
    mend = "memcached without -C (--disable-cas)"
    return Failed(StoreUnavailable("memcached cannot compare and set: it keeps no numbers", mend=mend))


def _expire(ttl: float) -> int:
    """Memcached's clock ticks in whole seconds and its next tick may come at once, so one more than asked."""
    span = math.ceil(ttl) + 1
    if span <= _LONGEST_SPAN:
        return span
    date = math.ceil(time.time() + ttl) + 1
    return date if date <= _LAST_DATE else 0  # never, rather than at once
