"""How long a session lives: pure rules on points in time.

Three clocks run, and the earliest ends the session:

    kept     `max_age` since the last cookie. A change starts it anew, with `rolling` any use does; the cookie follows.
    idle     `idle_timeout` since the last use. No cookie follows: the record alone carries it.
    absolute `absolute_timeout` since the session began, or since `login()`: nothing starts it anew but a login.

A cookie of the browser's session (`max_age=None`) has no end of its own. Its record is kept for the idle time-out, or
for 14 days after the last change (with `rolling`: the last use) where there is none.

What starts anew is written only once a tenth of it is gone. So the end that is sealed into the record is true on every
store, reading stays reading, and a cookie is sent seldom: one sent at every change could arrive after, and overwrite,
the one of a login in another tab.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from serverless_session.deadline import Duration, seconds
from serverless_session.errors import ConfigurationError

FOURTEEN_DAYS: Final = 14 * 24 * 60 * 60
LONGEST: Final = 10 * 366 * 24 * 60 * 60
PROLONG_AFTER: Final = 0.1
"""The share of a span that is gone before it is started anew."""


class Facts(NamedTuple):  # a frozen dataclass would take 0.5 ms of a cold start to make, and this 0.06
    """What we know of a session beside its contents; kept with them, and never merged. Seconds since 1970."""

    created_at: float
    kept_until: float | None = None
    """Where the last cookie ends. None: nothing but use ends it."""
    user_id: str | None = None
    authenticated_at: float | None = None
    max_age: float | None = None
    """Of this session alone, from `login(max_age=)`. None: the middleware's."""
    siblings: Sequence[str] | None = None
    """Keys of sessions that came of the same id at the same time: see `family`."""

    def __repr__(self) -> str:
        return "Facts()"  # no debugger, log or traceback shows whose they are


class Lifetime(NamedTuple):
    """The settings of one middleware, in seconds. `max_age=None`: as long as the browser is open; 0: not at all."""

    max_age: float | None = FOURTEEN_DAYS
    idle_timeout: float | None = None
    absolute_timeout: float | None = None
    rolling: bool = False

    @classmethod
    def of(
        cls,
        max_age: Duration | None,
        idle_timeout: Duration | None,
        absolute_timeout: Duration | None,
        *,
        rolling: bool,
    ) -> Lifetime:
        """From what a user gives. Raises `ConfigurationError`."""
        kept = None if max_age is None else _span(max_age, "max_age=", "or None for a cookie of the browser's session")
        idle = None if idle_timeout is None else _above_zero(idle_timeout, "idle_timeout=")
        absolute = None if absolute_timeout is None else _above_zero(absolute_timeout, "absolute_timeout=")
        if kept is not None and kept <= 0 and (idle or absolute or rolling):
            raise ConfigurationError(
                "no-life",
                "a session that is not kept at all has no time-outs",
                looked_at="max_age=, idle_timeout=, absolute_timeout=, rolling=",
                mend="max_age=None or above 0; or none of the others",
            )
        return cls(max_age=kept, idle_timeout=idle, absolute_timeout=absolute, rolling=rolling)

    @property
    def stores(self) -> bool:
        """Is anything kept at all?"""
        return self.max_age is None or self.max_age > 0

    @property
    def renews_on_use(self) -> bool:
        """Can a request that changes nothing have something to write?"""
        return self.rolling or self.idle_timeout is not None

    def begun(self, facts: Facts, now: float) -> Facts:
        """A new cookie goes out now."""
        kept = self._kept(facts)
        return facts._replace(kept_until=None if kept is None else now + kept)

    def used(self, facts: Facts, now: float, *, changed: bool) -> Facts:
        """A use of the session: is it kept longer for it? Then a cookie has to say so, if it has an end."""
        kept = self._kept(facts)
        if kept is None or not (changed or self.rolling):
            return facts
        until = now + kept
        due = facts.kept_until is None or until - facts.kept_until > kept * PROLONG_AFTER
        return facts._replace(kept_until=until) if due else facts

    def end(self, facts: Facts, now: float) -> float:
        """When a session ends that is used now, and no more."""
        ends = [] if facts.kept_until is None else [facts.kept_until]
        if self.idle_timeout is not None:
            ends.append(now + self.idle_timeout)
        if self.absolute_timeout is not None:
            ends.append((facts.authenticated_at or facts.created_at) + self.absolute_timeout)
        return min(ends, default=now + FOURTEEN_DAYS)

    def worth_writing(self, facts: Facts, *, new_end: float, old_end: float) -> bool:
        """Is the new end so much later than the one that is written that a use alone is worth a trip?"""
        spans = [span for span in (self._kept(facts), self.idle_timeout) if span is not None]
        return new_end - old_end > PROLONG_AFTER * min(spans, default=FOURTEEN_DAYS)

    def cookie_age(self, facts: Facts, now: float) -> int | None:
        """The cookie's Max-Age. None: until the browser is closed."""
        max_age = self.max_age if facts.max_age is None else facts.max_age
        if max_age is None or facts.kept_until is None:
            return None
        if not self.stores:
            return math.ceil(max_age)
        ends = facts.kept_until
        if self.absolute_timeout is not None:
            ends = min(ends, (facts.authenticated_at or facts.created_at) + self.absolute_timeout)
        return math.ceil(ends - now)

    def _kept(self, facts: Facts) -> float | None:
        if facts.max_age is not None:
            return facts.max_age
        if self.max_age is None:
            return FOURTEEN_DAYS if self.idle_timeout is None else None
        return self.max_age


def _span(duration: Duration, looked_at: str, or_else: str = "") -> float:
    with contextlib.suppress(TypeError):
        if abs(seconds(duration)) <= LONGEST:
            return seconds(duration)
    raise ConfigurationError(
        "bad-" + looked_at.rstrip("=").replace("_", "-"),
        "the life of a session is no span of time",
        looked_at=looked_at,
        mend=f"seconds or a timedelta of at most 10 years{', ' * bool(or_else)}{or_else}",
    )


def _above_zero(duration: Duration, looked_at: str) -> float:
    span = _span(duration, looked_at, "or None for no such limit")
    if span > 0:
        return span
    raise ConfigurationError(
        "bad-" + looked_at.rstrip("=").replace("_", "-"),
        "a time-out of no length would end every session at once",
        looked_at=looked_at,
        mend="seconds above 0, or None for no such limit",
    )
