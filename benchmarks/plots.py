"""Plots, drawn as SVG by hand: panels of bars, one panel a case. They read well on light and on dark pages.

A bar is a median, the thin line over it the quartiles. Ours are blue, peers grey, and the floor and the limit are
outlines. Nothing is cut off: bars begin at 0, and the longest of a panel fills it.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.contenders.programs import Case
from benchmarks.contenders.sessions import Action
from benchmarks.measuring import Spread
from benchmarks.questions import caches, concurrency, handler, stampede
from benchmarks.questions.sessions import case as session_case
from benchmarks.report import number
from benchmarks.results import Results, Role, Row

WIDTH: Final = 860
LABELS: Final = 300
BARS: Final = 410
LINE: Final = 24
MARGIN: Final = 16

TIMES_THE_FLOOR: Final = "x"

STYLE: Final = """\
    text { font-family: -apple-system, "Segoe UI", "Helvetica Neue", "DejaVu Sans", sans-serif; fill: #1f2328; }
    .title { font-size: 15px; font-weight: 600; }
    .head { font-size: 13.5px; font-weight: 600; }
    .label { font-size: 12.5px; text-anchor: end; }
    .value { font-size: 12.5px; fill: #59636e; }
    .mine { font-weight: 600; }
    .ours { fill: #0a5fb4; }
    .peer { fill: #9aa4af; }
    .floor, .limit, .bare { fill: none; stroke: #818b98; stroke-width: 1.3; }
    .limit, .bare { stroke-dasharray: 4 3; }
    .spread { stroke: #b35900; stroke-width: 2; }
    .axis { stroke: #c8d1da; stroke-width: 1; }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc; }
      .value { fill: #a3adb8; }
      .ours { fill: #58a6ff; }
      .peer { fill: #59636e; }
      .floor, .limit, .bare { stroke: #a3adb8; }
      .spread { stroke: #f0883e; }
      .axis { stroke: #3d444d; }
    }"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One case: `measure` is the name of what its bars show, `unit` what is written behind their figures."""

    question: str
    case: str
    measure: str
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """`name`: of its file. Its title says which way is better."""

    name: str
    title: str
    panels: tuple[Panel, ...]
    roles: tuple[Role, ...] = (Role.LIMIT, Role.FLOOR, Role.OURS, Role.PEER)


def _panels(question: str, cases: Sequence[str], measure: str, unit: str) -> tuple[Panel, ...]:
    return tuple(Panel(question=question, case=case, measure=measure, unit=unit) for case in cases)


_READ_AND_WRITE: Final = [session_case(action, 1) for action in (Action.READ, Action.WRITE)]
_CACHE_CASES: Final = [caches.HIT, "miss, 1 KiB", "hit, 64 KiB", caches.LOCAL_HIT]

PLOTS: Final = (
    Plot(
        name="bench-overview",
        title="In times of a bare redis-py call doing the same (less is better)",
        panels=(
            *_panels(
                "sessions", [session_case(Action.READ, 1), session_case(Action.WRITE, 1)], "ratio", TIMES_THE_FLOOR
            ),
            *_panels("caches", [caches.HIT], "ratio", TIMES_THE_FLOOR),
        ),
    ),
    Plot(
        name="bench-sessions",
        title="A request with a session of 1 KiB, in times of a bare redis-py call (less is better)",
        panels=_panels("sessions", [session_case(action, 1) for action in Action], "ratio", TIMES_THE_FLOOR),
    ),
    Plot(
        name="bench-concurrency",
        title="Requests a second on one loop that read a session of 1 KiB (more is better)",
        panels=_panels("concurrency", [concurrency.case(many) for many in concurrency.AT_ONCE], "per_second", "/s"),
        roles=(Role.FLOOR, Role.OURS, Role.PEER),
    ),
    Plot(
        name="bench-store-bytes",
        title="Bytes in Redis that a session takes (less is better)",
        panels=_panels("store-bytes", [f"{size} KiB of JSON" for size in (1, 4, 64)], "store_bytes", "B"),
    ),
    Plot(
        name="bench-caches",
        title="A call of a cached function, in times of a bare redis-py call (less is better)",
        panels=_panels("caches", _CACHE_CASES, "ratio", TIMES_THE_FLOOR),
    ),
    Plot(
        name="bench-stampede",
        title="Fifty at once for a value that nobody has: how often it is computed (once is best)",
        panels=_panels("stampede", [stampede.case(many) for many in (1, 4)], "computations", ""),
    ),
    Plot(
        name="bench-handler",
        title="One event through a Lambda handler, in microseconds (less is better)",
        panels=_panels("handler", [handler.NO_SESSION, f"session of 1 KiB, {Action.READ}"], "us", "us"),
    ),
    Plot(
        name="bench-cold-start",
        title="A fresh process until its first answer, in ms (less is better)",
        panels=_panels("cold-start", [case.value for case in Case], "ms", "ms"),
        roles=(Role.LIMIT, Role.FLOOR, Role.BARE, Role.OURS, Role.PEER),
    ),
)


def draw(results: Results, folder: Path) -> list[Path]:
    """A file for each plot that the run has something for."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for plot in PLOTS:
        svg = as_svg(plot, results)
        if svg is not None:
            path = folder / f"{plot.name}.svg"
            path.write_text(svg)
            drawn.append(path)
    return drawn


def as_svg(plot: Plot, results: Results) -> str | None:
    """None if the run did not ask any of its cases."""
    parts = [f'  <text class="title" x="{MARGIN}" y="{MARGIN + 10}">{html.escape(plot.title)}</text>']
    top = MARGIN + 28
    for panel in plot.panels:
        rows = [row for row in results.rows if (row.question, row.case) == (panel.question, panel.case)]
        shown = [(row, value) for row in rows if row.role in plot.roles and (value := _value(row, panel)) is not None]
        if shown:
            drawn, height = _panel(panel, shown, top)
            parts.append(drawn)
            top += height
    if len(parts) == 1:
        return None
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" role="img" aria-labelledby="title">\n'
        f'  <title id="title">{html.escape(plot.title)}</title>\n'
        f"  <style>\n{STYLE}\n  </style>\n{body}\n</svg>\n"
    )


def _value(row: Row, panel: Panel) -> Spread | None:
    if panel.measure in row.measured:
        return row.measured[panel.measure]
    counted = row.counted.get(panel.measure)
    return None if counted is None else Spread.of([float(counted)])


def _panel(panel: Panel, shown: Sequence[tuple[Row, Spread]], top: int) -> tuple[str, int]:
    """Its drawing, and how high it is."""
    scale = BARS / max(max(value.median, value.high) for _, value in shown)
    left = MARGIN + LABELS
    head = html.escape(f"{panel.question}: {panel.case}")
    lines = [f'  <text class="head" x="{MARGIN}" y="{top + 14}">{head}</text>']
    y = top + 26
    for row, value in shown:
        lines.extend(_bar(row, value, scale, left, y, panel.unit))
        y += LINE
    lines.append(f'  <line class="axis" x1="{left}" y1="{top + 22}" x2="{left}" y2="{y}"/>')
    return "\n".join(lines), y + MARGIN - top


def _bar(row: Row, value: Spread, scale: float, left: int, y: int, unit: str) -> list[str]:
    mine = " mine" if row.role is Role.OURS else ""
    length, low, high = (max(part, 0.0) * scale for part in (value.median, value.low, value.high))
    end = left + max(length, high) + 8
    middle = y + 9
    lines = [
        f'  <text class="label{mine}" x="{left - 8}" y="{y + 13}">{html.escape(row.contender)}</text>',
        f'  <rect class="{row.role}" x="{left}" y="{y}" width="{max(length, 1):.1f}" height="17"/>',
    ]
    if high - low > 1:
        lines.append(
            f'  <line class="spread" x1="{left + low:.1f}" y1="{middle}" x2="{left + high:.1f}" y2="{middle}"/>'
        )
    trips = row.counted.get("trips") if unit == TIMES_THE_FLOOR else None
    waits = "" if trips is None else f", {number(float(trips))} {'trip' if trips == 1 else 'trips'}"
    text = html.escape(f"{number(value.median)} {unit}".strip() + waits)
    lines.append(f'  <text class="value{mine}" x="{end:.1f}" y="{y + 13}">{text}</text>')
    return lines
