"""`CacheContext`: what a computation says of its own value, while it computes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serverless_session.deadline import Duration


class CacheContext:
    """Given to a computing function whose first parameter is annotated with it.

    - `ttl` (None): how long this value is fresh, in the place of the policy's.
    - `tags`: a list, of those that the cache was told; append what is known only now.
    - `store` (True): False keeps nothing.
    - `stale`, `has_stale`: the old value, if one may still be shown; raise `NotModified` to keep it for another `ttl`.
    """

    __slots__ = ("has_stale", "stale", "store", "tags", "ttl")

    def __init__(self, tags: Sequence[str] = (), stale: Any = None, *, has_stale: bool = False) -> None:
        self.ttl: Duration | None = None
        self.tags = list(tags)
        self.store = True
        self.stale = stale
        self.has_stale = has_stale


class NotModified(Exception):
    """Raised by a computing function: what `CacheContext.stale` shows is as good as new."""
