"""How long a value is kept, and what is done when it is old: one object for a cache, a function or a call.

Sans-I/O: what time it is, and what was drawn, is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from serverless_session.deadline import Duration, seconds
from serverless_session.errors import ConfigurationError
from serverless_session.records.leases import Ends

LONGEST_SECONDS: Final = 366 * 24 * 3600.0

_LARGEST_DRAW: Final = 40.0
"""`-log(draw)` is larger once in 10 ** 17 draws; one draw takes a microsecond, and most values are not that old."""


@dataclass(frozen=True, kw_only=True)
class CachePolicy:
    """`ttl`: how long a value is fresh; seconds or `timedelta`, as all spans here.

    - `jitter` (0.0): the share of `ttl` by which it may be shorter, drawn anew each time, so that what was computed
      together does not end together.
    - `early_refresh` (1.0): how eagerly a fresh value is computed anew shortly before it is stale, by one of those who
      ask for it (XFetch; 0: never, 2: twice as early).
    - `stale_while_revalidate` (0): how long after its `ttl` a stale value is shown to all but the one who computes it
      anew, inside his own request.
    - `stale_if_error` (0): how long after its `ttl` it is shown where computing fails or takes too long.
    - `local_ttl` (0): how long this process may show a value without asking the store, and so without hearing of an
      invalidation elsewhere.
    - `negative_ttl` (None): how long None is kept, and an exception of one of the types in `negative_errors`, which is
      raised again meanwhile. Without it None is kept like any value, and no exception is.
    - `soft_timeout` (None): how long a computation may take before a value that may still be shown is shown.
    - `hard_timeout` (None): how long before it is cancelled: a value that may still be shown is, or
      `ComputationTimeout` is raised.

    Raises `ConfigurationError`.
    """

    ttl: Duration
    jitter: float = 0.0
    early_refresh: float = 1.0
    stale_while_revalidate: Duration = 0
    stale_if_error: Duration = 0
    local_ttl: Duration = 0
    negative_ttl: Duration | None = None
    negative_errors: tuple[type[Exception], ...] = ()
    soft_timeout: Duration | None = None
    hard_timeout: Duration | None = None

    def __post_init__(self) -> None:
        _check(0 < _span(self.ttl) <= LONGEST_SECONDS, "ttl=", "seconds above 0, as in 60")
        _check(_is_number(self.jitter) and 0 <= self.jitter < 1, "jitter=", "a share of the ttl, as in 0.1")
        _check(
            _is_number(self.early_refresh) and 0 <= self.early_refresh < math.inf,
            "early_refresh=",
            "1.0, its default, or 0: never",
        )
        for name in ("stale_while_revalidate", "stale_if_error", "local_ttl"):
            _check(0 <= _span(getattr(self, name)) <= LONGEST_SECONDS, f"{name}=", "seconds, or 0: never")
        for name in ("negative_ttl", "soft_timeout", "hard_timeout"):
            span = getattr(self, name)
            _check(span is None or 0 < _span(span) <= LONGEST_SECONDS, f"{name}=", "seconds above 0, or None")
        _check(
            isinstance(self.negative_errors, tuple)
            and all(isinstance(kind, type) and issubclass(kind, Exception) for kind in self.negative_errors),
            "negative_errors=",
            "a tuple of exception types, as in (LookupError,)",
        )
        _check(
            not self.negative_errors or self.negative_ttl is not None,
            "negative_errors= without negative_ttl=",
            "negative_ttl=10",
        )

    def ends(self, now: float, draw: float, *, ttl: float | None = None) -> Ends:
        """Those of a value that is computed now. `draw`: from 0 to 1, at random. `ttl`: in the place of its own."""
        fresh = now + (seconds(self.ttl) if ttl is None else ttl) * (1 - self.jitter * draw)
        stale = fresh + seconds(self.stale_while_revalidate)
        return Ends(fresh, stale, max(stale, fresh + seconds(self.stale_if_error)))

    def negative_ends(self, now: float) -> Ends | None:
        """Those of None and of an exception; None: they have no ends of their own."""
        if self.negative_ttl is None:
            return None
        fresh = now + seconds(self.negative_ttl)
        return Ends(fresh, fresh, fresh)

    def is_early(self, fresh_until: float, cost: float, now: float, draw: Callable[[], float]) -> bool:
        """Is it this request that computes a fresh value anew? `draw()`: above 0 and at most 1, at random.

        Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede Prevention (2015), with the time that
        the last computation took (`cost`), and with two bounds. It begins early enough to be ready in time, and not
        more than a fifth of the ttl before that: so however often a value is asked for, it is computed at most 1.25
        times a ttl.
        """
        spare = fresh_until - now - cost
        if spare <= 0:
            return self.early_refresh > 0
        span = cost * self.early_refresh
        if spare > min(seconds(self.ttl) / 5, span * _LARGEST_DRAW):
            return False
        return spare <= -span * math.log(draw())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _span(duration: Duration) -> float:
    try:
        return seconds(duration)
    except TypeError:
        return math.nan


def _check(holds: bool, looked_at: str, mend: str) -> None:
    if not holds:
        raise ConfigurationError("bad-policy", "how long a value is kept cannot be so", looked_at=looked_at, mend=mend)
