"""A store in this process's memory: exact, bounded by bytes, for development, tests and single-process apps.

Entries leave when they expire (swept by a heap at each write) and, once `capacity_bytes` is exceeded, the least
recently used first. So it may forget, as it does when the process ends. A lock makes it safe for several loops in
several threads; no call ever waits for anything else, so there is no deadline to keep.
"""

from __future__ import annotations

import heapq
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from serverless_session.deadline import Clock, SystemClock
from serverless_session.snapshot import remember_to_forget
from serverless_session.stores.contract import (
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

ENTRY_BYTES: Final = 460
"""What an entry costs beside its value: key, objects, dict and heap slots (452 measured, with a 70-character key)."""


class MemoryStore(Store):
    """Keeps everything in this process.

    `capacity_bytes`: the most that all entries together may take, `ENTRY_BYTES` each included.
    `clock`: decides what has expired; the machine's by default.
    """

    def __init__(self, *, capacity_bytes: int = 64 * 1024 * 1024, clock: Clock | None = None) -> None:
        self._capacity = capacity_bytes
        self._clock = clock if clock is not None else SystemClock()
        self._entries: OrderedDict[str, tuple[Found, float]] = OrderedDict()
        self._ends: list[tuple[float, str]] = []
        self._size = 0
        self._lock = threading.Lock()
        self.limits = Limits(
            largest_value_bytes=min(capacity_bytes - ENTRY_BYTES, 16 * 1024 * 1024), may_forget=True, one_process=True
        )
        remember_to_forget(self)

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        refuse_repeated_keys(operations)
        now = self._clock.time()
        with self._lock:
            return [self._one(operation, now) for operation in operations]

    async def forget(self) -> None:
        """Drop everything."""
        with self._lock:
            self._entries.clear()
            self._ends.clear()
            self._size = 0

    def _one(self, operation: Operation, now: float) -> Outcome:
        stands = self._look(operation.key, now)
        match operation:
            case Read():
                return stands
            case Write(value=value, version=version, expect=expect):
                if too_large := self.limits.refuse(value):
                    return too_large
                if not stands.meets(expect) and not stands.meets(version):
                    return Conflict(stands)
                self._put(operation.key, Found(value, version), now + operation.ttl)
                self._sweep(now)
                return Written()
            case Delete(expect=expect):
                if isinstance(stands, Missing):
                    return stands
                if not stands.meets(expect):
                    return Conflict(stands)
                self._drop(operation.key)
                return Deleted()

    def _look(self, key: str, now: float) -> Found | Missing:
        entry = self._entries.get(key)
        if entry is None:
            return Missing()
        found, ends_at = entry
        if ends_at <= now:
            return Missing()
        self._entries.move_to_end(key)
        return found

    def _put(self, key: str, found: Found, ends_at: float) -> None:
        self._drop(key)
        self._entries[key] = found, ends_at
        self._size += len(found.value) + ENTRY_BYTES
        heapq.heappush(self._ends, (ends_at, key))

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= len(entry[0].value) + ENTRY_BYTES

    def _sweep(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            _, key = heapq.heappop(self._ends)
            entry = self._entries.get(key)
            if entry is not None and entry[1] <= now:  # else it was written anew, and has an end of its own in the heap
                self._drop(key)
        while self._size > self._capacity:
            self._drop(next(iter(self._entries)))
        if len(self._ends) > 2 * len(self._entries) + 64:  # rewritten entries leave their old ends in the heap
            self._ends = [(ends_at, key) for key, (_, ends_at) in self._entries.items()]
            heapq.heapify(self._ends)
