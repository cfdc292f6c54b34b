"""Two runs against each other: what changed beyond the spread.

Compared are ratios to the floor of the same run, and what was counted; microseconds of two runs say nothing. A ratio
has changed if the quartiles of the two runs do not meet, and the medians differ by more than two runs of the same code
do (`NOISE`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from benchmarks.measuring import Spread
from benchmarks.results import Results, Role, Row

NOISE: Final = 0.06
"""By how much ratios of two pinned runs of the same code were seen to differ, at the most."""


QUIET_LOAD: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One row that is not what it was."""

    row: Row
    says: str
    is_worse: bool


def changes(old: Results, new: Results) -> list[Change]:
    """Rows of ours and of peers that both runs have; worse ones first."""
    found = [
        change
        for row in new.rows
        if row.role in (Role.OURS, Role.PEER) and (before := old.row(*row.name)) is not None
        for change in (*_measured(before, row), *_counted(before, row))
    ]
    return sorted(found, key=lambda change: not change.is_worse)


def _measured(old: Row, new: Row) -> list[Change]:
    if "ratio" not in old.measured or "ratio" not in new.measured:
        return []
    before, after = old.measured["ratio"], new.measured["ratio"]
    if not differ(before, after):
        return []
    is_worse = after.median > before.median
    by = after.median / before.median - 1
    says = f"{by:+.0%}: {_shown(before)} -> {_shown(after)} x floor"
    return [Change(row=new, says=says, is_worse=is_worse)]


def differ(before: Spread, after: Spread) -> bool:
    """Beyond the spread of both, and beyond what two runs differ by."""
    apart = before.high < after.low or after.high < before.low
    return apart and abs(after.median / before.median - 1) > NOISE


def _counted(old: Row, new: Row) -> list[Change]:
    found = []
    for name in ("trips", "commands", "store_bytes", "keys"):
        before, after = old.counted.get(name), new.counted.get(name)
        if before is None or after is None or before == after:
            continue
        is_worse = isinstance(before, str) or isinstance(after, str) or after > before
        found.append(Change(row=new, says=f"{name}: {before} -> {after}", is_worse=is_worse))
    return found


def _shown(value: Spread) -> str:
    return f"{value.median:.2f} ({value.low:.2f}–{value.high:.2f})"  # noqa: RUF001 - a range


def as_text(old: Results, new: Results) -> str:
    """What `compare` prints."""
    lines = [
        f"{name} was begun under a load of {load}: what it says is worth less."
        for name, results in (("OLD", old), ("NEW", new))
        if isinstance(load := results.machine.get("load_at_start"), float) and load > QUIET_LOAD
    ]
    if old.machine.get("processor") != new.machine.get("processor"):
        lines.append("The two runs are of different machines: ratios still mean something, but less.")
    found = changes(old, new)
    shared = sum(1 for row in new.rows if old.row(*row.name) is not None)
    if not found:
        lines.append(f"Nothing changed beyond the spread, in {shared} rows that both runs have.")
    for change in found:
        word = "worse " if change.is_worse else "better"
        lines.append(f"{word}  {change.row.question}: {change.row.case}: {change.row.contender}: {change.says}")
    gone = [row for row in old.rows if new.row(*row.name) is None]
    added = [row for row in new.rows if old.row(*row.name) is None]
    lines.extend(f"gone    {row.question}: {row.case}: {row.contender}" for row in gone)
    lines.extend(f"new     {row.question}: {row.case}: {row.contender}" for row in added)
    return "\n".join(lines) + "\n"
