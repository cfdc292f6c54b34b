"""How many requests a second one loop serves when many are under way at once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from benchmarks.contenders.sessions import FLOOR, Action, all_contenders
from benchmarks.questions import Question
from benchmarks.results import Role

if TYPE_CHECKING:
    from benchmarks.asking import Bench

AT_ONCE: Final = (1, 4, 16, 64, 256)
QUICK_AT_ONCE: Final = (1, 16, 256)


def case(many: int) -> str:
    return f"{many} at once"


def ask(bench: Bench) -> None:
    contenders = [
        contender
        for contender in all_contenders(Action.READ, 1024)
        if contender.role is not Role.LIMIT and not contender.name.startswith("Flask")
    ]
    for many in QUICK_AT_ONCE if bench.quick else AT_ONCE:
        bench.race(
            QUESTION.name,
            case(many),
            [replace(contender, at_once=many) for contender in contenders],
            floor=FLOOR,
        )


QUESTION: Final = Question(
    name="concurrency",
    title="Sessions: many requests at once on one loop",
    about=(
        "The read-only request of 1 KiB, by 1 to 256 callers at once on one event loop; each calls again as soon as it "
        "was answered. `us` is the time a request takes from the loop, not the time its caller waits. redis-py and "
        "every peer run with the pool they have by default, but for the floor, which may open 512 connections."
    ),
    columns=("per_second", "us", "ratio", "trips", "commands"),
    ask=ask,
)
