"""Tables: a run as text for a terminal, or as Markdown for the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from benchmarks.aims import Standing, Verdict, standings, verdicts
from benchmarks.measuring import Spread
from benchmarks.questions import Question
from benchmarks.questions.all import QUESTIONS
from benchmarks.results import Results, Role, Row

HEADINGS: Final = {
    "us": "us",
    "net_us": "net us",
    "per_second": "per second",
    "cpu_us": "CPU us",
    "ratio": "x floor",
    "ms": "ms",
    "cpu_ms": "CPU ms",
    "added_cpu_ms": "+ CPU ms",
    "computations": "computed",
    "modules": "modules",
    "trips": "trips",
    "commands": "commands",
    "wire_bytes": "bytes on the wire",
    "store_bytes": "bytes in the store",
    "keys": "keys",
}

_MARKS: Final = {Role.LIMIT: "limit", Role.FLOOR: "floor", Role.BARE: "bare", Role.OURS: "ours", Role.PEER: ""}

Table = list[list[str]]


def as_text(results: Results) -> str:
    """Everything a run has found, for a terminal."""
    parts: list[str] = []
    for question in _asked(results):
        parts.append(f"\n{question.title}")
        for case, rows in cases(results, question):
            parts.append(f"\n  {case}")
            parts.extend(f"    {line}" for line in _aligned(table(question, rows)))
    parts.append("\nAims")
    parts.extend(f"    {line}" for line in _aligned(aims_table(verdicts(results))))
    parts.append("\nPeers that are ahead of us")
    parts.extend(f"    {line}" for line in _aligned(behind_table(list(standings(results)))))
    if results.left_out:
        parts.append("\nLeft out")
        parts.extend(f"    {line}" for line in _aligned(left_out_table(results)))
    return "\n".join(parts) + "\n"


def _asked(results: Results) -> list[Question]:
    asked = results.questions()
    return [question for question in QUESTIONS if question.name in asked]


def cases(results: Results, question: Question) -> Iterator[tuple[str, list[Row]]]:
    """The rows of each case, in the order in which they were asked."""
    rows = [row for row in results.rows if row.question == question.name]
    for case in dict.fromkeys(row.case for row in rows):
        yield case, [row for row in rows if row.case == case]


def table(question: Question, rows: Sequence[Row]) -> Table:
    """A head, then a row for each contender. Columns that no row has a value for are left out."""
    columns = [name for name in question.columns if any(name in row.measured or row.counted.get(name) for row in rows)]
    has_notes = any(row.note for row in rows)
    head = ["", "who", *(HEADINGS[name] for name in columns), *(["note"] if has_notes else [])]
    body = [
        [_MARKS[row.role], row.contender, *(cell(row, name) for name in columns), *([row.note] if has_notes else [])]
        for row in rows
    ]
    return [head, *body]


def cell(row: Row, name: str) -> str:
    """A median with its quartiles, or what was counted."""
    if name in row.measured:
        return spread(row.measured[name])
    counted = row.counted.get(name, "")
    return counted if isinstance(counted, str) else number(counted)


def spread(value: Spread) -> str:
    middle, low, high = number(value.median), number(value.low), number(value.high)
    return middle if middle == low == high else f"{middle} ({low}–{high})"  # noqa: RUF001 - a range


def number(value: float) -> str:
    """Three digits that count, whole numbers whole."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def aims_table(found: Sequence[Verdict]) -> Table:
    body = [
        [
            verdict.aim.says,
            f"at most {verdict.aim.at_most:g}",
            "not asked" if verdict.found is None else f"{verdict.found:.2f}",
            "" if verdict.found is None else "met" if verdict.is_met else "missed",
        ]
        for verdict in found
    ]
    return [["what", "aim", "found", ""], *body]


def behind_table(found: Sequence[Standing]) -> Table:
    """The cases in which a peer is ahead of the best of ours; a last row says of how many."""
    behind = [
        [standing.question, standing.case, standing.ours.contender, "; ".join(row.contender for row in standing.ahead)]
        for standing in found
        if standing.ahead
    ]
    ahead = len(found) - len(behind)
    return [["question", "case", "our best", "ahead of it"], *behind, [f"ahead in {ahead} of {len(found)}", "", "", ""]]


def left_out_table(results: Results) -> Table:
    """Who was left out, and why; the cases of one reason in one row."""
    grouped: dict[tuple[str, str, str, str], list[str]] = {}
    for entry in results.left_out:
        reason = " ".join(entry.reason.split())
        grouped.setdefault((entry.question, entry.contender, reason, entry.mend), []).append(entry.case)
    body = [
        [question, who, "; ".join(filter(None, dict.fromkeys(cases))) or "all", reason, mend]
        for (question, who, reason, mend), cases in grouped.items()
    ]
    return [["question", "who", "cases", "why", "what brings it"], *body]


def as_markdown(rows: Table) -> str:
    """As a table; numbers stand right."""
    head, *body = rows
    rules = ["---:" if _is_number_column(body, at) else "---" for at in range(len(head))]
    lines = [head, rules, *body]
    return "\n".join("|" + "|".join(_padded(text) for text in line) + "|" for line in lines) + "\n"


def _padded(text: str) -> str:
    return text if text.startswith("---") else f" {text.replace('|', '/')} "


def _is_number_column(body: Table, at: int) -> bool:
    texts = [row[at] for row in body if row[at]]
    return bool(texts) and all(re.fullmatch(r"-?[\d,.]+( \(.*\))?", text) for text in texts)


def _aligned(rows: Table) -> list[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    right = [_is_number_column(rows[1:], at) for at in range(len(widths))]
    justify: Callable[[str, int], str] = lambda text, at: (  # noqa: E731
        text.rjust(widths[at]) if right[at] else text.ljust(widths[at])
    )
    return ["  ".join(justify(text, at) for at, text in enumerate(row)).rstrip() for row in rows]
