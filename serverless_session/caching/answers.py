"""What a call wants of a cache, and what it is answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final, NamedTuple

from serverless_session.caching.context import CacheContext
from serverless_session.caching.policy import CachePolicy
from serverless_session.caching.shapes import Shape
from serverless_session.caching.stats import Answer
from serverless_session.records.leases import Entry, Freshness, Place

PATIENCE_WITH_OTHERS: Final = 10.0
"""Seconds to wait for another's computation."""


class Loaded(NamedTuple):
    """What is kept, as it is shown (`value`), before its shape was put to it (`plain`), and in bytes."""

    value: Any
    plain: Any
    packed: bytes

    def __repr__(self) -> str:
        return "Loaded()"


class Answered(NamedTuple):
    """`cost`: seconds that the computation took. `loaded`: None for what is raised, which is the `error`.

    `is_kept`, `fresh_until`, `tags`: whether the store has it, until when it is fresh, and the keys of its tags.
    `for_all`: whoever asked before it was computed may have it, too.
    """

    answer: Answer
    cost: float
    loaded: Loaded | None = None
    error: Exception | None = None
    is_kept: bool = False
    fresh_until: float = 0.0
    tags: Collection[str] = ()
    for_all: bool = True

    def __repr__(self) -> str:
        return f"Answered({self.answer})"


class Wanted(NamedTuple):
    """What a call wants. `takes_context`: the computation may give the value tags of its own. `expects`: it was there.

    `tags`: what they are called; their keys stand in `place`.
    """

    place: Place
    compute: Callable[[CacheContext], Awaitable[Any]]
    policy: CachePolicy
    shape: Shape
    tags: tuple[str, ...] = ()
    takes_context: bool = False
    refresh: bool = False
    expects: bool = False
    patience: float = PATIENCE_WITH_OTHERS


def answered(entry: Entry) -> Answered:
    """What stands in the store, as an answer."""
    fresh = Answer.WAIT if entry.waited else Answer.HIT
    answer = fresh if entry.freshness is Freshness.FRESH else Answer.STALE
    if entry.is_error:
        return Answered(answer, entry.cost, error=entry.value)
    return Answered(answer, entry.cost, entry.value, is_kept=True, fresh_until=entry.ends.fresh, tags=entry.stamps)
