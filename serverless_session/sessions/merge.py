"""Two changes of one session become one: a three-way merge, pure.

`base` is what one request loaded, `mine` what it made of it, `theirs` what another request has stored meanwhile. What
only one side changed is taken from that side. Where both changed the same thing:

1. The deletion of a key wins over a change of it, at every depth: a logout written as a deletion is never undone.
2. Keys that belong `together` come from one side only: the later one, mine, and that is a conflict. Deletions win here
   too.
3. A key with a strategy of its own (`merge=`), or one that was changed by a function (`session.change`), is what that
   says.
4. Two mappings are merged key by key.
5. A list that one side only added to: what it added goes to the end of what the other has made of that list. Of two
   that both only grew both tails are kept, theirs first.
6. Anything else is a conflict, counted: the later one, mine, wins.

Two things are the same only if their types agree too: `True` replaced by `1` is a change. Without a common base (both
created the key) the rules go by an empty one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from serverless_session.codec.serializers import first_difference
from serverless_session.errors import ConfigurationError

_ABSENT: Any = object()

Merge = Callable[[Any, Any, Any], Any]
"""What a key is to be after both sides have changed it: `(base, mine, theirs) -> value`. `base` is None where the key
was not there. It may run more than once, and must change none of the three."""


def sum_of_changes(base: Any, mine: Any, theirs: Any) -> Any:
    """A merge strategy for counters: what both sides have added, or taken away, counts."""
    return theirs + mine if base is None else theirs + (mine - base)


class MergeRules(NamedTuple):
    """What a middleware says about single keys. `together`: groups of keys that come from one side only."""

    strategies: Mapping[str, Merge] = MappingProxyType({})
    together: Sequence[frozenset[str]] = ()

    @classmethod
    def of(cls, strategies: Mapping[str, Merge], together: Sequence[Sequence[str]]) -> MergeRules:
        """From what a user gives. Raises `ConfigurationError`."""
        if not isinstance(strategies, Mapping) or not all(
            isinstance(key, str) and callable(strategy) for key, strategy in strategies.items()
        ):
            raise ConfigurationError(
                "bad-merge",
                "a merge strategy is a function for a key of the session",
                looked_at="merge=",
                mend='merge={"visits": sum_of_changes}, or a function of yours that takes (base, mine, theirs)',
            )
        given = tuple(together)
        if isinstance(together, str) or any(isinstance(group, str) for group in given):
            raise ConfigurationError(
                "bad-together",
                "keys that belong together are given as groups, and one of them is a text",
                looked_at="together=",
                mend='together=[("tenant", "role")]',
            )
        groups = tuple(map(frozenset, given))
        if not all(len(group) > 1 and all(isinstance(key, str) for key in group) for group in groups):
            raise ConfigurationError(
                "bad-together",
                "a group is two keys or more, each of them a text",
                looked_at="together=",
                mend='together=[("tenant", "role")]',
            )
        grouped = [key for group in groups for key in group]
        if len(set(grouped)) < len(grouped) or not strategies.keys().isdisjoint(grouped):
            raise ConfigurationError(
                "two-merges",
                "a key can stand in one group, or have one strategy",
                looked_at="merge=, together=",
                mend="each key once",
            )
        return cls(dict(strategies), groups)


NO_RULES = MergeRules()


class FunctionRaised(Exception):
    """A function of `session.change` raised where it ran again: of which key, and what."""

    def __init__(self, key: str, error: Exception) -> None:
        super().__init__()
        self.key = key
        self.error = error


class Merged(NamedTuple):
    """The outcome, and in how many places both sides had changed the same thing so that the later one won."""

    data: dict[str, Any]
    conflicts: int

    def __repr__(self) -> str:
        return f"Merged(conflicts={self.conflicts})"


def merge(
    base: dict[str, Any],
    mine: dict[str, Any],
    theirs: dict[str, Any],
    rules: MergeRules = NO_RULES,
    functions: Mapping[str, Callable[[Any], Any]] | None = None,
) -> Merged:
    """Merge top-level mappings; none of the three is changed, and nested values are shared with them.

    `functions`: of keys that `mine` has changed by a function, that function: it runs again on what `theirs` has.
    Raises `FunctionRaised` if one does.
    """
    data: dict[str, Any] = {}
    conflicts = 0
    settled: dict[str, Any] = {}
    for group in rules.together:
        if _changed(group, base, mine) and _changed(group, base, theirs):
            mine_of_it = {key: mine[key] for key in group if key in mine and not (key in base and key not in theirs)}
            settled |= dict.fromkeys(group, _ABSENT) | mine_of_it
            conflicts += _changed(group, theirs, mine_of_it)
    for key in [*theirs, *(key for key in mine if key not in theirs)]:
        its = base.get(key, _ABSENT), mine.get(key, _ABSENT), theirs.get(key, _ABSENT)
        if key in settled:
            value, met = settled[key], 0
        elif functions and key in functions and _ABSENT not in its[1:] and not _same(its[0], its[2]):
            try:
                value, met = functions[key](its[2]), 0
            except Exception as error:
                raise FunctionRaised(key, error) from error
        elif key in rules.strategies and _both_changed(*its):
            value, met = rules.strategies[key](None if its[0] is _ABSENT else its[0], its[1], its[2]), 0
        else:
            value, met = _merged(*its)
        conflicts += met
        if value is not _ABSENT:
            data[key] = value
    return Merged(data, conflicts)


def deleted_paths(base: dict[str, Any], mine: dict[str, Any]) -> list[list[str]]:
    """What `mine` has deleted of `base`, at every depth: the keys that lead to each."""
    paths: list[list[str]] = []
    for key, value in base.items():
        if key not in mine:
            paths.append([key])
        elif isinstance(value, dict) and isinstance(mine[key], dict):
            paths += [[key, *path] for path in deleted_paths(value, mine[key])]
    return paths


def without(data: dict[str, Any], paths: Sequence[Sequence[str]]) -> dict[str, Any]:
    """`data` without what stands at the ends of those paths; it is not changed itself."""
    left = dict(data)
    for first, *rest in paths:
        inner = left.get(first)
        if not rest:
            left.pop(first, None)
        elif isinstance(inner, dict):
            left[first] = without(inner, [rest])
    return left


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
        if _grew(start, mine):
            return [*theirs, *mine[len(start) :]], 0
        if _grew(start, theirs):
            return [*mine, *theirs[len(start) :]], 0
    return mine, 0 if _same(mine, theirs) else 1


def _changed(keys: frozenset[str], one: dict[str, Any], other: dict[str, Any]) -> bool:
    return any(not _same(one.get(key, _ABSENT), other.get(key, _ABSENT)) for key in keys)


def _both_changed(base: Any, mine: Any, theirs: Any) -> bool:
    there = mine is not _ABSENT and theirs is not _ABSENT
    return there and not _same(base, mine) and not _same(base, theirs)


def _grew(start: list[Any], now: list[Any]) -> bool:
    return len(now) >= len(start) and _same(start, now[: len(start)])


def _same(one: Any, other: Any) -> bool:
    if one is _ABSENT or other is _ABSENT:
        return one is other
    return first_difference(one, other) is None
