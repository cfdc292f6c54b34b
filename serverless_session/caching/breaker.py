"""When a store that failed is asked again: a circuit breaker, sans-I/O.

    closed   it is asked
    open     it is not: whoever would ask it goes on without
    probing  one call looks whether it answers again, beside its own work; all others go on without

The first failure opens it: what the store could have saved is less than what waiting for it costs. After a while a
probe is sent, at once for the first time: a new connection may need longer than a cache waits for it. A probe that
fails doubles the while, and so does a call that fails when a probe was answered: a store that is always slower than a
cache waits is asked less and less.
"""

from __future__ import annotations

from typing import Final

FIRST_REST: Final = 0.25
LONGEST_REST: Final = 30.0
"""Seconds."""


class Breaker:
    """Guards the calls of one store. All times are seconds of one clock that never goes backwards."""

    def __init__(self) -> None:
        self._rest = 0.0
        self._probes_at: float | None = None
        self._is_probing = False

    @property
    def is_closed(self) -> bool:
        """May the store be asked?"""
        return self._probes_at is None

    def failed(self, now: float) -> None:
        """A call failed."""
        if self._probes_at is None:
            self._probes_at = now + self._rest
            self._rest = min(max(2 * self._rest, FIRST_REST), LONGEST_REST)

    def succeeded(self) -> None:
        """A call was answered in time."""
        self._rest = 0.0

    def takes_probe(self, now: float) -> bool:
        """Is it this caller's turn to probe? If so, he says what came of it: `probed`."""
        if self._probes_at is None or self._is_probing or now < self._probes_at:
            return False
        self._is_probing = True
        return True

    def probed(self, now: float, *, answered: bool) -> None:
        """A probe has ended."""
        self._is_probing = False
        if answered:
            self._probes_at = None
        else:
            self._probes_at = now + self._rest
            self._rest = min(2 * self._rest, LONGEST_REST)
