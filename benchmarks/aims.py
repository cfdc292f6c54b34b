"""What we want to reach, held beside what a run found: met or missed, never left unsaid.

An aim is a figure of ours over that of another contender in the same case of the same run, or a figure alone. Beside
the named ones stands one that every row has: to be ahead of every peer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from benchmarks.contenders import caches, sessions
from benchmarks.questions import handler
from benchmarks.questions.caches import HIT, LOCAL_HIT
from benchmarks.questions.sessions import case as session_case
from benchmarks.results import Results, Role, Row

_READ: Final = session_case(sessions.Action.READ, 1)
_WRITE: Final = session_case(sessions.Action.WRITE, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """`over`: whose figure ours is divided by; none: microseconds."""

    says: str
    question: str
    case: str
    contender: str
    at_most: float
    over: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """An aim, and what was found; None where the run did not ask."""

    aim: Aim
    found: float | None

    @property
    def is_met(self) -> bool:
        return self.found is not None and self.found <= self.aim.at_most


AIMS: Final = (
    Aim(
        says="a session that is read, over GETEX by redis-py",
        question="sessions",
        case=_READ,
        contender=sessions.OURS,
        at_most=1.35,
        over=sessions.FLOOR,
    ),
    Aim(
        says="a session that is changed, over GETEX and SET by redis-py",
        question="sessions",
        case=_WRITE,
        contender=sessions.OURS,
        at_most=1.35,
        over=sessions.FLOOR,
    ),
    Aim(
        says="a cache's hit, over GET by redis-py",
        question="caches",
        case=HIT,
        contender=caches.OURS,
        at_most=1.25,
        over=caches.FLOOR,
    ),
    Aim(
        says="a hit in the process, in us",
        question="caches",
        case=LOCAL_HIT,
        contender=caches.OURS_LOCAL,
        at_most=3.0,
    ),
    Aim(
        says="the handler, over Mangum with its lifespan off",
        question="handler",
        case=handler.NO_SESSION,
        contender=handler.OURS,
        at_most=1.15,
        over=handler.FLOOR,
    ),
    Aim(
        says="the handler, over Mangum with its lifespan on auto",
        question="handler",
        case=handler.NO_SESSION,
        contender=handler.OURS,
        at_most=0.7,
        over=handler.AUTO,
    ),
)


def verdicts(results: Results) -> list[Verdict]:
    return [Verdict(aim=aim, found=_found(results, aim)) for aim in AIMS]


def _found(results: Results, aim: Aim) -> float | None:
    ours = results.row(aim.question, aim.case, aim.contender)
    if ours is None:
        return None
    if not aim.over:
        return ours.measured["us"].median
    other = results.row(aim.question, aim.case, aim.over)
    if other is None:
        return None
    if other.role is Role.FLOOR and "ratio" in ours.measured:
        return ours.measured["ratio"].median  # round by round
    return ours.measured["us"].median / other.measured["us"].median


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """In one case: the best of ours, and the peers that are ahead of it."""

    question: str
    case: str
    ours: Row
    ahead: tuple[Row, ...]


def standings(results: Results) -> Iterator[Standing]:
    """Of each case in which both we and peers were timed."""
    for question, case in dict.fromkeys((row.question, row.case) for row in results.rows):
        rows = [row for row in results.rows if (row.question, row.case) == (question, case)]
        ours = [row for row in rows if row.role is Role.OURS]
        peers = [row for row in rows if row.role is Role.PEER]
        if ours and peers:
            best = min(ours, key=cost)
            ahead = [row for row in peers if cost(row) < cost(best)]
            yield Standing(question=question, case=case, ours=best, ahead=tuple(sorted(ahead, key=cost)))


def cost(row: Row) -> float:
    """What is less is better: the time without the framework, or the bytes where no time was taken."""
    for name in ("net_us", "us", "ms"):
        if name in row.measured:
            return row.measured[name].median
    return float(row.counted["store_bytes"])
