"""A report as JSON, as plain text, or in colour where there is a terminal and `rich`.

The plain text is ASCII without escape codes and fits 90 columns. No form shows a session id.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from serverless_session.demo.beside import printable
from serverless_session.demo.report import Part, Report, Step

if TYPE_CHECKING:
    from rich.table import Table

TITLE: Final = "A visitor of a small shop on AWS Lambda"
STORED: Final = "The same session, as the app and as the store see it"
PROMISES: Final = "What was promised"
_SHOWN_BYTES: Final = 8


def as_json(report: Report) -> str:
    """Everything in the report; bytes as hex."""
    return json.dumps({**dataclasses.asdict(report), "held": report.held}, default=_plain, indent=2)


def _plain(value: object) -> object:
    assert isinstance(value, bytes)
    return value.hex()


def as_text(report: Report) -> str:
    """Plain text."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    yield TITLE
    yield f"{_scene(report)}."
    yield ""
    yield f" #  {'the visitor':32}{'request':16}{'in':4}{'answer':8}{'cookie':9}{'trips':<7}{'ms':>6}"
    for step in report.steps:
        yield (
            f"{step.number:>2}  {step.what:32}{step.request:16}{step.sandbox:4}{step.status:<8}{step.cookie:9}"
            f"{_trips(step):<7}{step.milliseconds:>6.1f}"
        )
    yield ""
    yield STORED
    if report.stored is None:
        yield "  the store does not hold it"
    else:
        yield f"  app    {_shown(report.stored.session)}"
        yield f"  store  {report.stored.key}"
        for part in report.stored.parts:
            yield f"    {part.name:11}{len(part.content):>3}  {_hex(part)}  {_ascii(part)}  {part.meaning}"
    yield ""
    yield PROMISES
    for verdict in report.verdicts:
        yield f"  {'held  ' if verdict.held else 'BROKEN'}  {verdict.promise}"
        yield f"          {verdict.evidence}"
    yield ""
    yield _sum_of(report)


# --- in colour --------------------------------------------------------------------------------------------------------


def print_in_colour(report: Report) -> bool:
    """Show the report on this terminal with `rich`; False, and nothing shown, where it is not installed."""
    try:
        from rich.console import Console
        from rich.text import Text
    except ModuleNotFoundError:
        return False
    console = Console(highlight=False)
    console.print(Text(TITLE, "bold"))
    console.print(Text(f"{_scene(report)}.\n", "dim"))
    console.print(_table_of_steps(report))
    console.print(Text(f"\n{STORED}", "bold"))
    for table in _tables_of_stored(report):
        console.print(table)
    console.print(Text(f"\n{PROMISES}", "bold"))
    console.print(_table_of_verdicts(report))
    console.print(Text(f"\n{_sum_of(report)}", "bold green" if report.held else "bold red"))
    return True


def _table_of_steps(report: Report) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("#", justify="right", style="dim")
    table.add_column("the visitor")
    table.add_column("request", style="cyan", no_wrap=True)
    table.add_column("in", style="dim")
    table.add_column("answer")
    table.add_column("cookie")
    table.add_column("trips", no_wrap=True)
    table.add_column("ms", justify="right", style="dim")
    for step in report.steps:
        table.add_row(
            str(step.number),
            step.what,
            step.request,
            step.sandbox,
            Text(str(step.status), "green" if step.status == 200 else "red"),
            step.cookie,
            Text(_trips(step), "green" if step.trips == step.trips_promised else "bold red"),
            f"{step.milliseconds:.1f}",
        )
    return table


def _tables_of_stored(report: Report) -> Iterator[Table]:
    from rich.table import Column, Table
    from rich.text import Text

    seen = Table.grid(padding=(0, 2))
    stored = report.stored
    if stored is None:
        seen.add_row(Text("the store does not hold it", "red"))
        yield seen
        return
    seen.add_row(Text("app", "dim"), Text(_shown(stored.session), "green"))
    seen.add_row(Text("store", "dim"), Text(stored.key, "yellow"))
    yield seen
    parts = Table.grid(Column(), Column(), Column(justify="right"), padding=(0, 2))
    for part in stored.parts:
        parts.add_row(
            "",
            part.name,
            Text(str(len(part.content)), "dim"),
            Text(_hex(part), "yellow"),
            Text(_ascii(part), "cyan"),
            Text(part.meaning, "dim"),
        )
    yield parts


def _table_of_verdicts(report: Report) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for verdict in report.verdicts:
        stamp = Text("held", "bold green") if verdict.held else Text("BROKEN", "bold white on red")
        table.add_row(stamp, verdict.promise)
        table.add_row("", Text(verdict.evidence, "dim" if verdict.held else "red"))
    return table


# --- words ------------------------------------------------------------------------------------------------------------


def _scene(report: Report) -> str:
    return f"Sandboxes A and B share one store, {report.store}; trips: how often a request waits for it"


def _trips(step: Step) -> str:
    return str(step.trips) if step.trips == step.trips_promised else f"{step.trips}, not {step.trips_promised}"


def _shown(session: Mapping[str, Any]) -> str:
    return json.dumps(session)


def _hex(part: Part) -> str:
    return f"{part.content[:_SHOWN_BYTES].hex(' '):{3 * _SHOWN_BYTES - 1}}"


def _ascii(part: Part) -> str:
    return f"{printable(part.content[:_SHOWN_BYTES]):{_SHOWN_BYTES}}"


def _sum_of(report: Report) -> str:
    broken = sum(not verdict.held for verdict in report.verdicts)
    number = len(report.verdicts)
    judged = f"{broken} of {number} promises were broken" if broken else f"All {number} promises held"
    return f"{judged}. {len(report.steps)} requests in {report.seconds:.2f} s."
