"""How long a session lives under each combination of settings: what the tests assert and the documentation shows.

`python -m tests.sessions.lifetimes` prints the table of docs/reference/lifetimes.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Literal

MINUTE: Final = 60.0
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

Use = Literal["read", "change", "login"]
"""What a request does with the session."""

Clock = tuple[float, Use]
"""Seconds, and the least that starts them anew: a read (any use), a change, or nothing but a login."""

COVERS: Final[Mapping[Use, frozenset[Use]]] = {
    "read": frozenset({"read", "change", "login"}),
    "change": frozenset({"change", "login"}),
    "login": frozenset({"login"}),
}
"""Which uses are at least that much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`clocks`: the earliest that runs down ends the session. `kept`: what the cookie's Max-Age begins with; None: it
    ends with the browser. `cookie_by`: the least that sends a cookie again, once a tenth of `kept` is gone."""

    options: Mapping[str, Any] = field(default_factory=dict)
    remembered: float | None = None
    clocks: tuple[Clock, ...]
    kept: float | None
    cookie_by: Use | None

    @property
    def name(self) -> str:
        settings = [f"`{name}={_value(value)}`" for name, value in self.options.items()]
        if self.remembered is not None:
            settings.append(f"`login(max_age={span(self.remembered)})`")
        return ", ".join(settings)

    @property
    def cookie_age(self) -> float | None:
        """The Max-Age of the first cookie."""
        return self.cookie_age_at(0.0)

    def cookie_age_at(self, time: float) -> float | None:
        """The Max-Age of a cookie that is sent so long after the login."""
        if self.kept is None:
            return None
        return min([self.kept, *(seconds - time for seconds, by in self.clocks if by == "login")])

    def end_of(self, use: Use | None) -> float | None:
        """How long it lives if it is only used so, again and again; None: for ever. `use=None`: not at all."""
        running = [seconds for seconds, by in self.clocks if use is None or use not in COVERS[by]]
        return min(running, default=None)


def span(seconds: float) -> str:
    """`5400` as `1.5 h`."""
    unit, name = next(((unit, name) for unit, name in ((DAY, "days"), (HOUR, "h")) if seconds >= unit), (MINUTE, "min"))
    return f"{seconds / unit:g} {name}"


def _value(value: Any) -> str:
    return span(value.total_seconds()) if isinstance(value, timedelta) else str(value)


_SINCE: Final[Mapping[Use, str]] = {
    "read": "the last use",
    "change": "the last change",
    "login": "it began or the last login",
}


def _decides(clock: Clock, clocks: tuple[Clock, ...]) -> bool:
    """Does no other clock always run down before this one?"""
    others = [other for other in clocks if other != clock]
    return not any(seconds <= clock[0] and COVERS[by] <= COVERS[clock[1]] for seconds, by in others)


def _cells(row: Row) -> list[str]:
    deciding = [clock for clock in row.clocks if _decides(clock, row.clocks)]
    ends = ", or ".join(f"{span(seconds)} after {_SINCE[by]}" for seconds, by in deciding)
    changes = [use for use in ("read", "change") if row.end_of(use) != row.end_of(None)]
    prolongs = {"read": "every use", "change": "a change"}[changes[0]] if changes else "nothing but a login"
    if "read" in changes and (end := row.end_of("read")) is not None and row.end_of("change") != end:
        prolongs += f"; beyond {span(end)} a change"
    age = "none" if row.cookie_age is None else f"{row.cookie_age:.0f}"
    again = "no"
    if row.cookie_by is not None and row.kept is not None:
        again = f"with {_WITH[row.cookie_by]}, {span(row.kept / 10)} after the last cookie"
    return [row.name or "none: the defaults", ends, prolongs, age, again]


_WITH: Final[Mapping[Use, str]] = {"read": "any use", "change": "a change"}


def _minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def _hours(count: float) -> timedelta:
    return timedelta(hours=count)


ROWS = [
    Row(clocks=((14 * DAY, "change"),), kept=14 * DAY, cookie_by="change"),
    Row(options={"max_age": _hours(1)}, clocks=((HOUR, "change"),), kept=HOUR, cookie_by="change"),
    Row(options={"max_age": _hours(1), "rolling": True}, clocks=((HOUR, "read"),), kept=HOUR, cookie_by="read"),
    Row(options={"max_age": None}, clocks=((14 * DAY, "change"),), kept=None, cookie_by=None),
    Row(options={"max_age": None, "rolling": True}, clocks=((14 * DAY, "read"),), kept=None, cookie_by=None),
    Row(
        options={"max_age": None, "idle_timeout": _minutes(30)},
        clocks=((30 * MINUTE, "read"),),
        kept=None,
        cookie_by=None,
    ),
    Row(
        options={"max_age": _hours(2), "idle_timeout": _minutes(30)},
        clocks=((30 * MINUTE, "read"), (2 * HOUR, "change")),
        kept=2 * HOUR,
        cookie_by="change",
    ),
    Row(
        options={"max_age": _hours(2), "idle_timeout": _minutes(30), "rolling": True},
        clocks=((30 * MINUTE, "read"), (2 * HOUR, "read")),
        kept=2 * HOUR,
        cookie_by="read",
    ),
    Row(
        options={"max_age": _hours(1), "idle_timeout": _hours(2)},
        clocks=((HOUR, "change"), (2 * HOUR, "read")),
        kept=HOUR,
        cookie_by="change",
    ),
    Row(
        options={"max_age": _hours(1), "absolute_timeout": _hours(12)},
        clocks=((HOUR, "change"), (12 * HOUR, "login")),
        kept=HOUR,
        cookie_by="change",
    ),
    Row(
        options={"idle_timeout": _minutes(30), "absolute_timeout": _hours(12)},
        clocks=((30 * MINUTE, "read"), (12 * HOUR, "login")),
        kept=14 * DAY,
        cookie_by=None,
    ),
    Row(
        options={"max_age": None, "idle_timeout": _minutes(30), "absolute_timeout": _hours(12)},
        clocks=((30 * MINUTE, "read"), (12 * HOUR, "login")),
        kept=None,
        cookie_by=None,
    ),
    Row(
        options={"max_age": _hours(1), "idle_timeout": _minutes(30), "absolute_timeout": _minutes(10)},
        clocks=((10 * MINUTE, "login"), (30 * MINUTE, "read"), (HOUR, "change")),
        kept=HOUR,
        cookie_by="change",
    ),
    Row(
        options={"max_age": _hours(1)},
        remembered=30 * DAY,
        clocks=((30 * DAY, "change"),),
        kept=30 * DAY,
        cookie_by="change",
    ),
    Row(
        options={"max_age": _hours(1), "rolling": True},
        remembered=30 * DAY,
        clocks=((30 * DAY, "read"),),
        kept=30 * DAY,
        cookie_by="read",
    ),
    Row(
        options={"max_age": None},
        remembered=30 * DAY,
        clocks=((30 * DAY, "change"),),
        kept=30 * DAY,
        cookie_by="change",
    ),
    Row(remembered=10 * MINUTE, clocks=((10 * MINUTE, "change"),), kept=10 * MINUTE, cookie_by="change"),
    Row(
        options={"idle_timeout": _minutes(30)},
        remembered=30 * DAY,
        clocks=((30 * MINUTE, "read"), (30 * DAY, "change")),
        kept=30 * DAY,
        cookie_by="change",
    ),
    Row(
        options={"absolute_timeout": _hours(12)},
        remembered=30 * DAY,
        clocks=((12 * HOUR, "login"), (30 * DAY, "change")),
        kept=30 * DAY,
        cookie_by=None,
    ),
]


def table() -> str:
    """The rows as Markdown."""
    head = [
        "| settings | ends | prolonged by | `Max-Age` | cookie sent again |",
        "|---|---|---|--:|---|",
    ]
    return "\n".join([*head, *("| " + " | ".join(_cells(row)) + " |" for row in ROWS)])


if __name__ == "__main__":
    print(table())
