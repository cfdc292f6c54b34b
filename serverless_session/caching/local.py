"""Values in this process, for a short time: the level in front of the store, off unless `local_ttl` is given.

It holds only what the store holds, or has just accepted. It ages by the larger of wall and monotonic time, because a
sandbox's monotonic clock may stand still while it is frozen, and its wall clock may be set back; where the two disagree
by more than a second since the last look, something has happened to time, and all of it is dropped. Bounded by bytes:
the least recently used leave first.

What was invalidated in this process is gone at once, also what is on its way here from the store: `age` is taken before
the store is asked, and what was asked for before an invalidation is not put in any more.
"""

from __future__ import annotations

import marshal
import math
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from serverless_session.snapshot import remember_to_forget

ENTRY_BYTES: Final = 500
"""What an entry costs beside its value."""

LARGEST_DISAGREEMENT: Final = 1.0
"""Seconds."""

_FROZEN: Final = frozenset({str, int, float, bool, bytes, type(None)})
"""Nobody can change them, so everybody may have the same one."""


class Local(NamedTuple):
    """A value of this process. `cost`: seconds that its computation took."""

    value: Any
    cost: float


class _Held(NamedTuple):
    value: Any
    copy: Callable[[Any], Any] | None
    """Makes a copy from `value`; None: everybody may have `value` itself."""
    wall: float
    monotonic: float
    ttl: float
    cost: float
    tags: frozenset[str]
    size: int


class LocalLevel:
    """At most `capacity_bytes` of values. `wall`, `monotonic`: the clocks."""

    def __init__(
        self,
        capacity_bytes: int,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capacity = capacity_bytes
        self._wall, self._monotonic = wall, monotonic
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._size = 0
        self._offset = wall() - monotonic()
        self._lock = threading.Lock()
        self.age = 0
        """Grows at every invalidation in this process."""
        remember_to_forget(self)

    def get(self, key: str, ttl: float = math.inf) -> Local | None:
        """What is held for less than `ttl` seconds, a copy of it if it could be changed."""
        held = self._held.get(key)
        if held is None:
            return None
        wall, monotonic = self._wall(), self._monotonic()
        if abs(wall - monotonic - self._offset) > LARGEST_DISAGREEMENT:
            self.clear()
            self._offset = wall - monotonic
            return None
        with self._lock:
            age = max(wall - held.wall, monotonic - held.monotonic)
            if age >= held.ttl:
                self._drop(key)
                return None
            if age >= ttl:
                return None
            if key in self._held:
                self._held.move_to_end(key)
        return Local(held.value if held.copy is None else held.copy(held.value), held.cost)

    def put(
        self,
        key: str,
        value: Any,
        packed: bytes,
        unpack: Callable[[bytes], Any],
        *,
        ttl: float,
        cost: float,
        tags: frozenset[str],
        age: int,
    ) -> None:
        """Hold what the store holds, unless something was invalidated since `age`.

        `packed`: for what only the codec can copy, with `unpack`.
        """
        held, copy, size = _copyable(value, packed, unpack)
        size += ENTRY_BYTES
        if ttl <= 0 or size > self._capacity:
            return
        now = self._wall(), self._monotonic()
        with self._lock:
            if age != self.age:
                return
            self._drop(key)
            self._held[key] = _Held(held, copy, *now, ttl, cost, tags, size)
            self._size += size
            while self._size > self._capacity:
                self._drop(next(iter(self._held)))

    def drop(self, *keys: str) -> None:
        """These were invalidated."""
        with self._lock:
            self.age += 1
            for key in keys:
                self._drop(key)

    def drop_tags(self, tags: frozenset[str]) -> None:
        """All with one of these tags were invalidated."""
        with self._lock:
            self.age += 1
            for key in [key for key, held in self._held.items() if not held.tags.isdisjoint(tags)]:
                self._drop(key)

    def clear(self) -> None:
        """All were invalidated."""
        with self._lock:
            self.age += 1
            self._held.clear()
            self._size = 0

    async def forget(self) -> None:
        """Nothing of it goes into a snapshot of the process."""
        self.clear()

    def _drop(self, key: str) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            self._size -= held.size


def _copyable(
    value: Any, packed: bytes, unpack: Callable[[bytes], Any]
) -> tuple[Any, Callable[[Any], Any] | None, int]:
    """What is held, what makes a copy of it, and its size. `marshal` takes a quarter of the codec's time."""
    if type(value) in _FROZEN:
        return value, None, sys.getsizeof(value)
    try:
        marshalled = marshal.dumps(value)
    except ValueError:  # a date, say
        return packed, unpack, len(packed)
    return marshalled, marshal.loads, len(marshalled)
