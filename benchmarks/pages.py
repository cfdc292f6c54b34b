"""docs/benchmarks.md, written from one run: how to repeat it, what it was made on, what it found, who was left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks import plots, report
from benchmarks.aims import standings, verdicts
from benchmarks.questions import Question
from benchmarks.questions.all import QUESTIONS
from benchmarks.results import Results

IMAGES: Final = "images"
_PLOT_OF: Final = {panel.question: plot for plot in plots.PLOTS[1:] for panel in plot.panels}

_OPENING: Final = """\
# Benchmarks

<!-- Written by `python -m benchmarks --write-docs docs/benchmarks.md`; change the program, not this page. -->

What sessions, caches and the Lambda handler cost, beside what others cost and beside what the wire costs alone. All of
it is one run of one program, which starts its own server and keeps every figure with its spread.

## Repeat it

```sh
pip install '.[bench]'
python -m benchmarks --quick
python -m benchmarks --out new.json
python -m benchmarks compare old.json new.json
```

The first run takes less than 90 seconds. `--only sessions,caches` asks some of the questions, `--plots FOLDER` draws,
`--seed` repeats the order of the rounds, and `--write-docs` writes this page; `python -m benchmarks show old.json` does
the same with a run that was kept.

## How to read it

- Everything runs on **one core**: the program, the server, the processes it starts. Between two cores a round trip on
  loopback costs several times as much, and by how much changes from run to run; that would hide what a client costs.
- Contenders of a case run **in turns, in a random order**, round by round. A figure is the median of the rounds; in
  brackets are the quartiles.
- `x floor` is a ratio to the floor **of the same round**: redis-py called by hand, or bare Mangum. Only these can be
  compared between two runs; microseconds cannot. A peer that comes with its framework is divided without it (`net us`).
- `trips` are waits for the network in one call, counted at a proxy on the wire, and `commands` what the server was
  sent; both outside of the timed rounds.
- `limit` is the least that the machine allows (a bare socket, an empty program), `floor` is what ratios are to, `bare`
  is a framework without the feature.
- Each contender is set up as its own documentation does for production on Redis, and takes part once it has shown that
  what it keeps comes back. redis-py is used as it comes; `hiredis` takes part only if the versions below name it. Who
  was missing, or failed, is [named at the end](#left-out).
- Our sessions seal what they store (XAES-256-GCM) and merge what two requests changed; no peer here does either.
"""


def write(results: Results, page: Path) -> None:
    """The page, and its plots in a folder beside it."""
    drawn = {path.stem for path in plots.draw(results, page.parent / IMAGES)}
    page.write_text("\n".join(_parts(results, drawn)))


def _parts(results: Results, drawn: set[str]) -> Iterator[str]:
    yield _OPENING
    overview = plots.PLOTS[0]
    if overview.name in drawn:
        yield f"![{overview.title}]({IMAGES}/{overview.name}.svg)\n"
    yield "## Aims\n"
    yield report.as_markdown(report.aims_table(verdicts(results)))
    found = list(standings(results))
    ahead = [standing for standing in found if not standing.ahead]
    yield (
        f"And to be ahead of every peer in every case. We are in {len(ahead)} of {len(found)}. Where we are not, those "
        "who keep the data in the cookie, or do not load what nobody asked for, count as peers, too:\n"
    )
    yield report.as_markdown(report.behind_table(found)[:-1])
    for question in QUESTIONS:
        if question.name in results.questions():
            yield from _of_question(results, question, drawn)
    yield "## Left out\n"
    if results.left_out:
        yield report.as_markdown(report.left_out_table(results))
    else:
        yield "Nobody.\n"
    yield "## Made on\n"
    yield from _made_on(results)


def _of_question(results: Results, question: Question, drawn: set[str]) -> Iterator[str]:
    yield f"## {question.title}\n"
    yield f"{question.about}\n"
    plot = _PLOT_OF.get(question.name)
    if plot is not None and plot.name in drawn:
        yield f"![{plot.title}]({IMAGES}/{plot.name}.svg)\n"
    for case, rows in report.cases(results, question):
        yield f"### {question.name}: {case}\n"
        yield report.as_markdown(report.table(question, rows))


def _made_on(results: Results) -> Iterator[str]:
    facts = [
        ["made at", results.made_at],
        ["took", f"{results.seconds:.0f} s{', with --quick' if results.quick else ''}"],
        ["seed", str(results.seed)],
        *([name.replace("_", " "), str(value)] for name, value in results.machine.items()),
    ]
    yield report.as_markdown([["", ""], *facts])
    yield report.as_markdown([["version of", ""], *([name, version] for name, version in results.versions.items())])
