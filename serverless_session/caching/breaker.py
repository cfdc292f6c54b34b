"""When a store that failed is asked again: a circuit breaker, sans-I/O.

    closed   it is asked
    open     it is not: whoever would ask it goes on without
    probing  one call looks whether it answers again, beside its own work; all others go on without

The first failure opens it: what the store could have saved is less than what waiting for it costs. After a while a
probe is sent, at once for the first time: a new connection may need longer than a cache waits for it. A probe that
fails doubles the while, and so does a call that fails when a probe was answered: a store that is always slower than a
cache waits is asked less and less. Where a probe was cut off, because its loop ended or everything was frozen, the next
one is a call itself.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

FIRST_REST: Final = 0.25
LONGEST_REST: Final = 30.0
"""Seconds."""


class Turn(Enum):
    """What a call is to do. `PROBE`: go on without the store, and send a probe beside the work."""

    ASK = auto()
    GO_ON = auto()
    PROBE = auto()


class Breaker:
    """Guards the calls of one store. All times are seconds of one clock that never goes backwards.

    `patience`: seconds after which a probe that has not ended is given up.
    """

    def __init__(self, patience: float = 2.0) -> None:
        self._patience = patience
        self._rest = 0.0
        self._probes_at: float | None = None
        self._probing_since: float | None = None
        self._probes_alone = True

    @property
    def is_closed(self) -> bool:
        """May the store be asked?"""
        return self._probes_at is None

    def turn(self, now: float) -> Turn:
        """What the next call does. Who is to probe says what came of it: `probed`, or `gave_up`."""
        if self._probes_at is None:
            return Turn.ASK
        if self._probing_since is not None and now - self._probing_since < self._patience:
            return Turn.GO_ON
        if self._probing_since is not None:  # nobody ended it: its loop did, or it was frozen
            self.gave_up(now)
        if now < self._probes_at:
            return Turn.GO_ON
        if not self._probes_alone:
            self._probes_at = now + self._rest  # whoever asks meanwhile goes on without
            return Turn.ASK
        self._probing_since = now
        return Turn.PROBE

    def failed(self, now: float) -> None:
        """A call failed."""
        if self._probes_at is None or not self._probes_alone:
            self._probes_at = now + self._rest
            self._rest = min(max(2 * self._rest, FIRST_REST), LONGEST_REST)

    def succeeded(self) -> None:
        """A call was answered in time."""
        self._rest, self._probes_at, self._probes_alone = 0.0, None, True

    def probed(self, now: float, *, answered: bool) -> None:
        """A probe has ended."""
        self._probing_since = None
        if answered:
            self._probes_at = None
        else:
            self._probes_at = now + self._rest
            self._rest = min(2 * self._rest, LONGEST_REST)

    def gave_up(self, now: float) -> None:
        """A probe was cut off, which says nothing of the store. Nothing can run beside the work here: a call probes."""
        self._probing_since, self._probes_alone = None, False
        self._probes_at = now
