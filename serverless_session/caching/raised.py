"""Exceptions that are kept, to be raised again: as plain values, and back.

A type is known by its name, and looked for among those that the policy names and what derives from them: nothing is
imported because a store says so. No constructor runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from serverless_session.records.leases import Unfit

Kinds = tuple[type[Exception], ...]


def plain_of(error: Exception) -> list[Any]:
    """What of an exception is kept: its type, its arguments and its attributes, but no traceback and no notes."""
    state = {name: value for name, value in vars(error).items() if name != "__notes__"}
    return [_name(type(error)), list(error.args), state]


def error_of(plain: Any, kinds: Kinds) -> Exception:
    """An exception that was kept, of one of these types or one below it; it is made without its constructor."""
    try:
        name, args, state = plain
        for kind in _with_all_below(kinds):
            if _name(kind) == name:
                error: Exception = kind.__new__(kind, *args)
                error.args = tuple(args)
                error.__dict__.update(state)
                return error
    except (ValueError, TypeError):
        pass
    raise Unfit


def _with_all_below(kinds: Kinds) -> Iterator[type[Exception]]:
    for kind in kinds:
        yield kind
        yield from _with_all_below(tuple(kind.__subclasses__()))


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
