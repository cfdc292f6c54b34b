'''The contract every store keeps: bytes with expiry and compare-and-set, in as few round trips as possible.

A store answers three operations, each with one outcome:

| operation | answers |
|---|---|
| `Read(key)` | `Found(value, version)` or `Missing` |
| `Write(key, value, ttl=, version=, expect=)` | `Written`, or `Conflict` with what stands there now |
| `Delete(key, expect=)` | `Deleted`, `Missing`, or `Conflict` with what stands there now |

or, any of them, `Failed(error)`. What a store promises, to the corner case:

1. **Versions are the caller's.** 8 random bytes chosen before sending, new at every write, kept in front of the value.
   A server's own number (Memcached's cas, Firestore's update time) is at most a hint for the connection that read it.
2. **Sending again is safe.** A `Write` whose version already stands there answers `Written`, whatever it expected (and
   may live longer for it, or not). So a lost answer is settled by sending the same operation once more on a new
   connection within the deadline, never by a read (the first copy may still land after the read). If that meets
   somebody else's version, or is lost too, the outcome is `Failed(WriteUncertain)`. A `Delete` sent again may say
   `Missing`. With `expect=ANYTHING` nothing can be settled: it is for tools. One hole is left: where nothing stands
   there is no version to move, so a copy of a *creation* (`expect=ABSENT`) whose answer was lost can land, again or
   late, after somebody has deleted what it created.
3. **A refused operation changes nothing**, and of several at once that expect the same, one succeeds. `Conflict` shows
   what stood there at or after the refusal, never the expected version itself.
4. **Expiry**: never earlier than `ttl` seconds after the write, at most 2 s later; an expired value is never returned,
   even where the server deletes it late. A write that expects a version which has expired and was not replaced may
   land, and a `Delete` may call it `Deleted`.
5. **Reads see every write acknowledged before they began**: primary, consistent reads, one region.
6. **One call, one trip** wherever the server allows it. The keys of one call differ (else it is a `ValueError`, and
   nothing is done); its operations run in any order or side by side, each with its own outcome, and a call is never a
   transaction. Who needs an order makes two calls. Nothing else is raised but cancellation.
7. `look_first=True` lets a store read before it writes, where a failed condition costs as much as a write. It changes
   no outcome.
8. **Too large** is `Failed(ValueTooLarge)`, decided from `limits` before anything is sent: the old value stands.
9. **Deadlines**: a call ends within `deadline.time_left()`; what was not answered by then is `Failed(StoreTimeout)` for
   reads and for writes that were surely not sent, `Failed(WriteUncertain)` for the others. A connection that ran out of
   time is not used again. Cancellation is passed on, and drops the connection.
10. A store object may be made at import, before any loop, and used by several loops one after the other.

A complete store (`serverless_session.testing.StoreConformance` runs every rule over one):

```python
from collections.abc import Sequence
from time import time

from serverless_session.stores import (
    ABSENT,
    ANYTHING,
    Conflict,
    Delete,
    Deleted,
    Found,
    Limits,
    Missing,
    Operation,
    Outcome,
    Read,
    Store,
    Write,
    Written,
    refuse_repeated_keys,
)


class DictStore(Store):
    """One process, one thread; shows the contract and nothing else."""

    limits = Limits(largest_value_bytes=1_000_000, one_process=True)

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Found, float]] = {}

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        refuse_repeated_keys(operations)
        return [self._one(operation) for operation in operations]

    def _one(self, operation: Operation) -> Outcome:
        found, ends_at = self._kept.get(operation.key, (None, 0.0))
        stands = found if found is not None and ends_at > time() else Missing()
        match operation:
            case Read():
                return stands
            case Write(key=key, value=value, ttl=ttl, version=version, expect=expect):
                if too_large := self.limits.refuse(value):
                    return too_large
                if not stands.meets(expect) and not stands.meets(version):
                    return Conflict(stands)
                self._kept[key] = Found(value, version), time() + ttl
                return Written()
            case Delete(key=key, expect=expect):
                if isinstance(stands, Missing) or not stands.meets(expect):
                    return stands if isinstance(stands, Missing) else Conflict(stands)
                del self._kept[key]
                return Deleted()
```
'''

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal, NewType

from serverless_session.errors import ServerlessSessionError, ValueTooLarge

Version = NewType("Version", bytes)
"""What compare-and-set compares: 8 random bytes, chosen by the writer, never used twice."""

VERSION_BYTES: Final = 8

LONGEST_TTL: Final = 100 * 365.25 * 24 * 3600
"""Seconds: 100 years. Every store can count to it."""

_KEY = re.compile(r"(?!\.|__)[A-Za-z0-9._:=~-]{1,200}")


def new_version() -> Version:
    """A version nobody has used; straight from the system's randomness, so that forks and snapshots never share one."""
    return Version(os.urandom(VERSION_BYTES))


class Expect(Enum):
    """What a write or delete may expect besides a version."""

    ABSENT = "absent"
    """Nothing may stand there."""
    ANYTHING = "anything"
    """Whatever stands there. Can be neither settled nor fenced: for tools, not for features."""


ABSENT: Final = Expect.ABSENT
ANYTHING: Final = Expect.ANYTHING
Expected = Version | Expect
"""What a write expects: the version that it replaces, that nothing stands there, or anything."""


# --- operations -------------------------------------------------------------------------------------------------------
# Values that nobody changes. They are not declared frozen, because that costs every cold start 0.25 ms a class (2.5 of
# 18 ms in all). Keys, values and versions are left out of repr, so that no log can show them.


def _check_key(key: str) -> None:
    if not _KEY.fullmatch(key):
        raise ValueError("a store key has 1-200 characters of A-Za-z0-9._:=~- and begins neither with '.' nor '__'")


def _check_version(version: object) -> None:
    if not isinstance(version, bytes) or len(version) != VERSION_BYTES:
        raise ValueError(f"a version is {VERSION_BYTES} bytes: take new_version()")


@dataclass(slots=True)
class Read:
    """What stands under `key`?"""

    key: str = field(repr=False)

    def __post_init__(self) -> None:
        _check_key(self.key)


@dataclass(slots=True)
class Write:
    """Put `value` under `key` for `ttl` seconds, known by `version`, if what stands there is what is expected.

    `look_first`: something probably stands there, so a store may read before it writes, where that is cheaper (False).
    """

    key: str = field(repr=False)
    value: bytes = field(repr=False)
    ttl: float = field(kw_only=True)
    version: Version = field(repr=False, kw_only=True)
    expect: Expected = field(repr=False, kw_only=True)
    look_first: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        _check_key(self.key)
        _check_version(self.version)
        if not isinstance(self.expect, Expect):
            _check_version(self.expect)
        if not 0 < self.ttl <= LONGEST_TTL:
            raise ValueError("ttl is a number of seconds above 0 and at most 100 years")

    def with_value(self, value: bytes) -> Write:
        """The same of another value. It is not checked again: 4 us, on every write."""
        copy = object.__new__(Write)
        copy.key, copy.value, copy.ttl = self.key, value, self.ttl
        copy.version, copy.expect, copy.look_first = self.version, self.expect, self.look_first
        return copy


@dataclass(slots=True)
class Delete:
    """Remove what stands under `key`, if it is what is expected."""

    key: str = field(repr=False)
    expect: Version | Literal[Expect.ANYTHING] = field(repr=False, kw_only=True)

    def __post_init__(self) -> None:
        _check_key(self.key)
        if self.expect is not ANYTHING:
            _check_version(self.expect)


Operation = Read | Write | Delete


# --- outcomes ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Found:
    """A live value and the version it was written with."""

    value: bytes = field(repr=False)
    version: Version = field(repr=False)

    def meets(self, expect: Expected) -> bool:
        """Is this what was expected?"""
        return expect is ANYTHING or expect == self.version


@dataclass(slots=True)
class Missing:
    """Nothing stands there, or what stood there has expired."""

    def meets(self, expect: Expected) -> bool:
        """Is this what was expected?"""
        return isinstance(expect, Expect)


@dataclass(slots=True)
class Written:
    """The write stands, under the version that the caller chose."""


@dataclass(slots=True)
class Deleted:
    """What was expected stood there and is gone."""


@dataclass(slots=True)
class Conflict:
    """What was expected did not stand there; nothing was changed. `stands`: what did, or that nothing did."""

    stands: Found | Missing


@dataclass(slots=True)
class Failed:
    """This operation of the call failed; the others have outcomes of their own."""

    error: ServerlessSessionError


Outcome = Found | Missing | Written | Deleted | Conflict | Failed


# --- the store --------------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Limits:
    """What a store can hold, and what it may do to it.

    `largest_value_bytes`: our own constant, below the server's. `may_forget`: it may lose an acknowledged write before
    its time (eviction, restart without a log, asynchronous failover). `one_process`: other processes do not see it.
    """

    largest_value_bytes: int
    may_forget: bool = False
    one_process: bool = False

    def refuse(self, value: bytes) -> Failed | None:
        """The outcome of a write of `value` where it is too large, else None."""
        if len(value) <= self.largest_value_bytes:
            return None
        return Failed(ValueTooLarge(len(value), self.largest_value_bytes))


class Store(ABC):
    """Bytes with expiry and compare-and-set. A store implements `perform` and states its `limits`; see the module."""

    limits: Limits

    @abstractmethod
    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        """One outcome for each operation, in the order given. Raises nothing but cancellation and wrong use."""

    async def aclose(self) -> None:
        """Close what the running loop holds open. The store may be used again and opens anew."""
        return

    async def read(self, key: str) -> Found | Missing:
        """What stands under `key`. Raises `StoreError` if the store could not tell."""
        outcome = await self._only(Read(key))
        assert isinstance(outcome, Found | Missing)
        return outcome

    async def write(
        self, key: str, value: bytes, *, ttl: float, version: Version, expect: Expected, look_first: bool = False
    ) -> Written | Conflict:
        """Write under compare-and-set. Raises `StoreError` if it was not done, `WriteUncertain` if that is unknown."""
        outcome = await self._only(Write(key, value, ttl=ttl, version=version, expect=expect, look_first=look_first))
        assert isinstance(outcome, Written | Conflict)
        return outcome

    async def delete(self, key: str, *, expect: Version | Literal[Expect.ANYTHING]) -> Deleted | Missing | Conflict:
        """Delete under compare-and-set. Raises as `write` does."""
        outcome = await self._only(Delete(key, expect=expect))
        assert isinstance(outcome, Deleted | Missing | Conflict)
        return outcome

    async def _only(self, operation: Operation) -> Outcome:
        (outcome,) = await self.perform(operation)
        if isinstance(outcome, Failed):
            raise outcome.error
        return outcome


def refuse_repeated_keys(operations: Sequence[Operation]) -> None:
    """Wrong use: the keys of one call differ, because its operations may run side by side."""
    if len(operations) > 1 and len({operation.key for operation in operations}) < len(operations):
        raise ValueError("the operations of one call run in any order, so their keys must differ: make two calls")
