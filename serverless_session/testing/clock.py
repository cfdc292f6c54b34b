"""A clock that stands still until a test moves it."""

from __future__ import annotations

import time

from serverless_session.deadline import Duration, seconds


class ManualClock:
    """Wall time under a test's control: `with shared.override(store="memory://", clock=(clock := ManualClock())): ...`.

    `start`: seconds since 1970, by default the machine's time when it is made. Deadlines of store calls go on in real
    time.
    """

    def __init__(self, start: float | None = None) -> None:
        self._now = time.time() if start is None else start

    def time(self) -> float:
        """Seconds since 1970."""
        return self._now

    def advance(self, duration: Duration) -> None:
        """Move on by seconds or a `timedelta`."""
        self._now += seconds(duration)
