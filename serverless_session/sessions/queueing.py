"""Savers of one session in one process queue up, and the next in line starts from what the one before wrote.

Without it, N savers at once would all write, one would win, and N - 1 would merge and try again: about N * N / 2
trips. Here each waits for its turn, is told what stands in the store now as if the store had refused it (`Conflict`),
merges, and writes once. Compare-and-set still decides: another process may have written in between. So a turn that does
not come in time costs trips, never correctness, and nothing here needs to be right for anything but speed.

A line belongs to one event loop and stands only while somebody is in it.
"""

from __future__ import annotations

import asyncio
from collections import deque

from serverless_session.deadline import Clock
from serverless_session.records.records import Kept
from serverless_session.stores.contract import Conflict, Delete, Deleted, Missing, Operation, Outcome, Write, Written

_Place = tuple[asyncio.AbstractEventLoop, str]


class _Line:
    __slots__ = ("stands", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[asyncio.Future[None]] = deque()
        self.stands: Kept | Missing | None = None  # under the key, as far as the last one knew


class SaveQueue:
    """The lines of one middleware."""

    def __init__(self) -> None:
        self._lines: dict[_Place, _Line] = {}

    async def turn(self, key: str, clock: Clock, *, patience: float) -> Turn:
        """Wait for the turn to save what stands under `key`, for at most `patience` seconds. Then `leave` it.

        `clock`: by it a value that was just written will end.
        """
        place = asyncio.get_running_loop(), key
        line = self._lines.get(place)
        if line is None:
            self._lines[place] = line = _Line()
            return Turn(self, place, line, clock)
        called = place[0].create_future()
        line.waiting.append(called)
        try:
            async with asyncio.timeout(patience):  # unlike `wait_for` of Python 3.11, it swallows no cancellation
                await called
        except TimeoutError:
            if not called.done() or called.cancelled():
                return Turn(self, place, None, clock)
        except BaseException:
            if called.done() and not called.cancelled():  # it was our turn already
                self._next(place, line)
            raise
        return Turn(self, place, line, clock)

    def _next(self, place: _Place, line: _Line) -> None:
        while line.waiting:
            called = line.waiting.popleft()
            if not called.done():
                called.set_result(None)
                return
        del self._lines[place]


class Turn:
    """The right to save what stands under one key; without a line it gave up waiting, and knows nothing."""

    def __init__(self, queue: SaveQueue, place: _Place, line: _Line | None, clock: Clock) -> None:
        self._queue = queue
        self._place = place
        self._line = line
        self._clock = clock

    def foresee(self, operation: Operation) -> Outcome | None:
        """What the store would answer for all we know, where that is a refusal; None: it has to be asked."""
        stands = self._line.stands if self._line is not None and operation.key == self._place[1] else None
        if stands is None or not isinstance(operation, Write | Delete) or stands.meets(operation.expect):
            return None
        if isinstance(operation, Write) and stands.meets(operation.version):  # sent again: it stands already
            return None
        if isinstance(stands, Kept) and stands.ends_at <= self._clock.time():
            return None
        return Missing() if isinstance(operation, Delete) and isinstance(stands, Missing) else Conflict(stands)

    def learn(self, operation: Operation, outcome: Outcome) -> None:
        """What the store has answered."""
        if self._line is None or operation.key != self._place[1]:
            return
        self._line.stands = None
        match operation, outcome:
            case Write(), Written():
                ends_at = self._clock.time() + operation.ttl
                self._line.stands = Kept(operation.value, operation.version, ends_at=ends_at)
            case _, Conflict(stands=Kept() | Missing() as stands):
                self._line.stands = stands
            case _, Deleted() | Missing():
                self._line.stands = Missing()

    def leave(self) -> None:
        if self._line is not None:
            self._queue._next(self._place, self._line)
            self._line = None
