"""What tells, quickly, whether a session's contents are still what they were. Most requests only read.

Three looks are taken at a session before its request is over, and packing it for each would take 35 us for 1 KiB, and
2 ms for 64. As long as the app was given no mapping or list of it, nothing in them can have changed, and what stands at
the top is compared. `Session` says so before it hands out the first (`Marks.before_lending`), and from then on
`marshal` makes bytes of it all: 6 us, and 0.4 ms. Where that cannot tell, the lifecycle packs and compares.
"""

from __future__ import annotations

import marshal
from datetime import date, datetime, time, timedelta
from typing import Any, Final

_UNCHANGEABLE: Final = frozenset({str, int, float, bool, bytes, type(None), date, datetime, time, timedelta})
_UNCHANGEABLE_BY_NAME: Final = frozenset({("decimal", "Decimal"), ("uuid", "UUID")})
"""Types of what nobody can change; these two by name, so that their modules need not be imported for it."""

_KNOWN_BY_VALUE: Final = frozenset({str, int, bool, bytes})
"""Of these, equal ones are the same. Equal floats may differ (0.0 and -0.0), and so may times (of two time zones)."""


def is_unchangeable(value: Any) -> bool:
    """May an app have it without being able to change it?"""
    kind = type(value)
    return kind in _UNCHANGEABLE or (kind.__module__, kind.__qualname__) in _UNCHANGEABLE_BY_NAME


def is_flat(data: dict[str, Any]) -> bool:
    """Is there nothing in it that can be changed?"""
    values = list(dict.values(data))
    return _UNCHANGEABLE.issuperset(map(type, values)) or all(map(is_unchangeable, values))


def contents_of(session: dict[str, Any]) -> dict[str, Any]:
    """What is in a session, as a plain dict, in one step. It is not asked for it, so nothing of it counts as lent."""
    return dict(dict.items(session))


class Marks:
    """Tells whether a session is still in step with the store: as it was loaded, or saved last.

    Two marks, of what is in step and of what is being saved: whatever the app is given while a save is under way may be
    changed before it is over, so both must hear of it.
    """

    def __init__(self) -> None:
        self._in_step: Mark | None = None
        self._being_saved: Mark | None = None

    def is_still(self, session: dict[str, Any]) -> bool:
        """Has nothing changed? False: something has, or that cannot be told."""
        return self._in_step is not None and self._in_step.is_still(session)

    def loaded(self, data: dict[str, Any]) -> None:
        """A session is made of `data`, which the app has not had."""
        self._in_step = Mark(data, is_lent=False)

    def saving(self, session: dict[str, Any]) -> None:
        """What the session holds now is packed, to be saved."""
        known = self._in_step
        is_lent = known is None or not known.covers(session)
        self._being_saved = Mark(session, is_lent=is_lent)
        if known is not None and known.is_lent and not is_lent:
            self._being_saved = None  # a thread of the app was given something just now, and may have changed it

    def saved(self) -> None:
        """What was being saved is in step now."""
        self._in_step = self._being_saved

    def forget(self) -> None:
        """The session holds something else now: whether that is in step, must be looked up."""
        self._in_step = None

    def before_lending(self) -> None:
        """The app is about to get something of its session that it could change, for the first time."""
        for mark in (self._in_step, self._being_saved):
            if mark is not None:
                mark.before_lending()


class Mark:
    """Tells whether `data` is still what it is now. `is_lent`: the app may already have a mapping or list of it."""

    __slots__ = ("_marshalled", "_values")

    def __init__(self, data: dict[str, Any], *, is_lent: bool) -> None:
        self._values = contents_of(data)
        self._marshalled: list[bytes | None] = []
        """What `marshal` made of the values before something was lent, if it was; None: it does not know one of them.

        Of several threads that are given something at once, each adds its own, and the first counts: whoever changes
        what he got has added before.
        """
        if is_lent:
            self.before_lending()

    @property
    def is_lent(self) -> bool:
        """May the app have something of it that it could change?"""
        return bool(self._marshalled)

    def before_lending(self) -> None:
        """The app is about to get something of it that it could change."""
        if not is_flat(self._values):
            self._marshalled.append(_marshalled(self._values))

    def covers(self, data: dict[str, Any]) -> bool:
        """Is there nothing in `data` that the app has had and could change?"""
        return not self.is_lent and all(
            self._values.get(key) is value or is_unchangeable(value) for key, value in contents_of(data).items()
        )

    def is_still(self, data: dict[str, Any]) -> bool:
        """Has nothing changed? False: something has, or that cannot be told."""
        now = contents_of(data)
        if self._marshalled:
            before = self._marshalled[0]
            return before is not None and before == _marshalled(now)
        return list(now) == list(self._values) and all(map(_is_same, now.values(), self._values.values()))


def _is_same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and type(one) in _KNOWN_BY_VALUE and one == other)


def _marshalled(data: dict[str, Any]) -> bytes | None:
    """The same bytes as long as nothing is changed, and perhaps others though nothing was. Nobody reads them."""
    try:
        return marshal.dumps(data, 2)  # in later versions the bytes depend on who else holds the values
    except ValueError:  # it knows no dates, say
        return None
