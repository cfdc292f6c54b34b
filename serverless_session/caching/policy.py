"""How long a value is kept, and what is done when it is old: one object for a cache, a function or a call."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from serverless_session.deadline import Duration, seconds
from serverless_session.errors import ConfigurationError
from serverless_session.records.leases import Ends, Entry

LONGEST_SECONDS: Final = 366 * 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class CachePolicy:
    """`ttl`: how long a value is fresh; seconds or `timedelta`, as all spans here.

    `jitter` (0.0): the share of `ttl` by which it may be shorter, drawn anew each time, so that what was computed
    together does not end together. `early_refresh` (1.0): how eagerly a fresh value is computed anew shortly before it
    is stale, by one of those who ask for it (XFetch; 0: never, 2: twice as early). `stale_while_revalidate` (0): how
    long after that a stale value is shown to all but the one who computes it anew, inside his own request.
    `stale_if_error` (0): how long it is shown where computing fails. Raises `ConfigurationError`.
    """

    ttl: Duration
    jitter: float = 0.0
    early_refresh: float = 1.0
    stale_while_revalidate: Duration = 0
    stale_if_error: Duration = 0

    def __post_init__(self) -> None:
        _check(0 < _span(self.ttl) <= LONGEST_SECONDS, "ttl=", "seconds above 0, as in 60")
        _check(0 <= self.jitter < 1, "jitter=", "a share of the ttl, as in 0.1")
        _check(0 <= self.early_refresh < math.inf, "early_refresh=", "1.0, its default, or 0: never")
        for name in ("stale_while_revalidate", "stale_if_error"):
            _check(0 <= _span(getattr(self, name)) <= LONGEST_SECONDS, f"{name}=", "seconds, or 0: never")

    def ends(self, now: float, draw: float) -> Ends:
        """Those of a value that is computed now. `draw`: from 0 to 1, at random."""
        fresh = now + seconds(self.ttl) * (1 - self.jitter * draw)
        stale = fresh + seconds(self.stale_while_revalidate)
        return Ends(fresh, stale, max(stale, fresh + seconds(self.stale_if_error)))

    def is_early(self, entry: Entry, now: float, draw: float) -> bool:
        """Is it this request that computes a fresh value anew? `draw`: above 0 and at most 1, at random.

        Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede Prevention (2015), with the time that
        the last computation took: what takes longer begins earlier.
        """
        return now - entry.cost * self.early_refresh * math.log(draw) >= entry.ends.fresh


def _span(duration: Duration) -> float:
    try:
        return seconds(duration)
    except TypeError:
        return math.nan


def _check(holds: bool, looked_at: str, mend: str) -> None:
    if not holds:
        raise ConfigurationError("bad-policy", "how long a value is kept cannot be so", looked_at=looked_at, mend=mend)
