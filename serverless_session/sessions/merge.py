"""Two changes of one session become one: a three-way merge, pure.

`base` is what one request loaded, `mine` what it made of it, `theirs` what another request has stored meanwhile. What
only one side changed is taken from that side. Where both changed the same thing:

1. The deletion of a key wins over a change of it, at every depth: a logout written as a deletion is never undone.
2. Two mappings are merged key by key.
3. Two lists that both only grew keep both tails, theirs first.
4. Anything else is a conflict, counted: the later one, mine, wins.

Two things are the same only if their types agree too: `True` replaced by `1` is a change.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from serverless_session.codec.serializers import first_difference

_ABSENT: Any = object()


class Merged(NamedTuple):
    """The outcome, and in how many places both sides had changed the same thing so that the later one won."""

    data: dict[str, Any]
    conflicts: int


def merge(base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]) -> Merged:
    """Merge top-level mappings; none of the three is changed, and nested values are shared with them."""
    data: dict[str, Any] = {}
    conflicts = 0
    for key in [*theirs, *(key for key in mine if key not in theirs)]:
        value, met = _merged(base.get(key, _ABSENT), mine.get(key, _ABSENT), theirs.get(key, _ABSENT))
        conflicts += met
        if value is not _ABSENT:
            data[key] = value
    return Merged(data, conflicts)


def _merged(base: Any, mine: Any, theirs: Any) -> tuple[Any, int]:
    if _same(base, mine):
        return theirs, 0
    if _same(base, theirs):
        return mine, 0
    if mine is _ABSENT or theirs is _ABSENT:
        return _ABSENT, 0
    if isinstance(mine, dict) and isinstance(theirs, dict):
        nested = merge(base if isinstance(base, dict) else {}, mine, theirs)
        return nested.data, nested.conflicts
    if isinstance(mine, list) and isinstance(theirs, list):
        start = base if isinstance(base, list) else []
        if _grew(start, mine) and _grew(start, theirs):
            return [*theirs, *mine[len(start) :]], 0
    return mine, 0 if _same(mine, theirs) else 1


def _grew(start: list[Any], now: list[Any]) -> bool:
    return len(now) >= len(start) and _same(start, now[: len(start)])


def _same(one: Any, other: Any) -> bool:
    if one is _ABSENT or other is _ABSENT:
        return one is other
    return first_difference(one, other) is None
