"""The clock, and the time that remains.

Two kinds of time, never mixed. *Wall time* (seconds since 1970) comes from an injected `Clock` and decides what has
expired. *Deadlines* are monotonic and travel by context variable, so they reach every store call of a request without
an argument: `set_invocation_end` is called by whoever knows when the platform will stop us, `within` by a caller that
gives several calls one budget. `time_left` is the smallest of them. Whether a store's client may block the loop while
it waits travels the same way (`may_block`). Nothing here ever waits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Protocol

Duration = float | timedelta
"""A span of time in a public parameter: seconds, or a `timedelta`."""

DEFAULT_SECONDS = 1.0
"""What one store call may take in all where nobody said otherwise. No default of the package hangs."""


class Clock(Protocol):
    """Where wall time comes from; `serverless_session.testing.ManualClock` is one that tests move by hand."""

    def time(self) -> float:
        """Seconds since 1970."""
        ...


class SystemClock:
    """The machine's clock."""

    def time(self) -> float:
        return time.time()


class InvocationEnd:
    """`at`: when the last store call of an invocation ends, by `time.monotonic()`. Whoever has set it may move it."""

    __slots__ = ("at",)

    def __init__(self, at: float) -> None:
        self.at = at


may_block: ContextVar[bool] = ContextVar("serverless_session_may_block", default=False)
"""Set by a host whose loop serves one request at a time: a store whose client blocks may then do so on the loop."""

_limit_ends: ContextVar[float | None] = ContextVar("serverless_session_limit_ends", default=None)
_invocation_end: ContextVar[InvocationEnd | None] = ContextVar("serverless_session_invocation_end", default=None)


def seconds(duration: Duration) -> float:
    """The length of a `Duration` in seconds. Raises `TypeError` for anything else."""
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    if isinstance(duration, bool) or not isinstance(duration, int | float):
        raise TypeError(f"a span of time is a number of seconds or a timedelta, not of type {type(duration).__name__}")
    return float(duration)


def time_left(default: float = DEFAULT_SECONDS) -> float:
    """Seconds a call that starts now may take; `default` where the context sets no limit. May be zero or negative."""
    now = time.monotonic()
    limit, invocation = _limit_ends.get(), _invocation_end.get()
    left = default if limit is None else limit - now
    return left if invocation is None else min(left, invocation.at - now)


class within:
    """All store calls inside end `limit` seconds from now, or earlier if an enclosing limit says so."""

    # A class, because a generator takes three times as long, on every call of a store.
    __slots__ = ("_limit", "_token")

    def __init__(self, limit: float) -> None:
        self._limit = limit

    def __enter__(self) -> None:
        ends, outer = time.monotonic() + self._limit, _limit_ends.get()
        self._token = _limit_ends.set(ends if outer is None or ends < outer else outer)

    def __exit__(self, *raised: object) -> None:
        _limit_ends.reset(self._token)


def has_invocation_end() -> bool:
    """Does somebody around us know when the platform will stop us?"""
    return _invocation_end.get() is not None


@contextmanager
def invocation_ends_in(remaining: float) -> Iterator[None]:
    """As `set_invocation_end`, for what is inside."""
    token = _invocation_end.set(InvocationEnd(time.monotonic() + remaining))
    try:
        yield
    finally:
        _invocation_end.reset(token)


def set_invocation_end(remaining: float) -> InvocationEnd:
    """From here on in this context, every store call ends within `remaining` seconds from now."""
    end = InvocationEnd(time.monotonic() + remaining)
    _invocation_end.set(end)
    return end
