"""Runs that nobody made, for tests of what is done with the results of one."""

from collections.abc import Mapping

from benchmarks.measuring import Spread
from benchmarks.results import LeftOut, Results, Role, Row


def spread(median: float, by: float = 0.0) -> Spread:
    return Spread(median=median, low=median - by, high=median + by)


def row(
    contender: str,
    role: Role,
    *,
    us: float = 100.0,
    ratio: float = 1.0,
    by: float = 0.0,
    counted: Mapping[str, float | str] | None = None,
    question: str = "sessions",
    case: str = "read-only, 1 KiB",
    **measured: Spread,
) -> Row:
    return Row(
        question=question,
        case=case,
        contender=contender,
        role=role,
        measured={"us": spread(us), "ratio": spread(ratio, by), **measured},
        counted=counted if counted is not None else {"trips": 1.0, "commands": "GET"},
    )


def results(*rows: Row, left_out: tuple[LeftOut, ...] = (), load: float = 0.1) -> Results:
    return Results(
        made_at="2026-01-02T03:04:05+00:00",
        seed=7,
        quick=True,
        seconds=12.3,
        machine={"processor": "a made-up one", "load_at_start": load},
        versions={"redis": "8.1.0"},
        rows=rows,
        left_out=left_out,
    )
