"""`python -m benchmarks`: asks the questions, prints tables, and keeps what was found.

`python -m benchmarks compare OLD.json NEW.json` says what changed between two runs, `python -m benchmarks show
KEPT.json` prints one again, and draws and writes as a run does.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import random
import sys
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks import compare, pages, plots, report
from benchmarks.asking import Bench
from benchmarks.machine import machine, versions
from benchmarks.measuring import FULL, QUICK, pin_to_one_core
from benchmarks.progress import Progress
from benchmarks.questions.all import NAMES, QUESTIONS
from benchmarks.results import Results
from tests import servers


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["compare"]:
        return _compare(arguments[1:])
    if arguments[:1] == ["show"]:
        return _show(arguments[1:])
    asked = _parser().parse_args(arguments)
    only = _only(asked.only)
    if only is None:
        print(f"--only takes some of: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    results = run(only, quick=asked.quick, seed=asked.seed, server=asked.server)
    print(report.as_text(results))
    asked.out.write_text(results.to_json())
    print(f"seed {results.seed}, {results.seconds:.0f} s, kept in {asked.out}")
    if asked.plots is not None:
        print("drawn:", *plots.draw(results, asked.plots))
    if asked.write_docs is not None:
        pages.write(results, asked.write_docs)
        print(f"written: {asked.write_docs}")
    return 0


def run(only: Sequence[str], *, quick: bool, seed: int | None = None, server: str = "redis") -> Results:
    """Ask the questions, on one core with a server of their own."""
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    core = pin_to_one_core()
    made_on = machine(core)
    logging.getLogger("mangum").setLevel(logging.WARNING)  # it tells of each request
    warnings.simplefilter("ignore", DeprecationWarning)  # of peers, in what they import
    made_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with _started(server) as store:
        bench = Bench(
            server=store,
            dice=random.Random(seed),
            effort=QUICK if quick else FULL,
            quick=quick,
            progress=Progress(sys.stderr),
        )
        with bench.complaints:
            for question in QUESTIONS:
                if question.name in only:
                    bench.ask(question)
        bench.progress.ends()
    return Results(
        made_at=made_at,
        seed=seed,
        quick=quick,
        seconds=bench.progress.seconds,
        machine=made_on,
        versions=versions(f"{store.name} {store.version}"),
        rows=tuple(bench.rows),
        left_out=tuple(bench.left_out),
    )


def _started(name: str) -> AbstractContextManager[servers.Server]:
    return servers.valkey() if name == "valkey" else servers.redis()


def _only(names: str) -> list[str] | None:
    """Those that are named, or all; None if one is unknown."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not set(wanted) <= set(NAMES):
        return None
    return wanted or list(NAMES)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="within 90 s: fewer rounds, fewer cases")
    parser.add_argument("--only", default="", metavar="NAMES", help=f"some of: {', '.join(NAMES)}")
    parser.add_argument("--out", type=Path, default=Path("benchmarks.json"), metavar="FILE", help="where to keep it")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw SVG plots there")
    parser.add_argument("--write-docs", type=Path, metavar="PAGE", help="write the page, and its plots beside it")
    parser.add_argument("--seed", type=int, help="of the order of rounds; drawn anew unless given")
    parser.add_argument("--server", choices=("redis", "valkey"), default="redis", help="which one to start")
    return parser


def _compare(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks compare", description=compare.__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    asked = parser.parse_args(arguments)
    try:
        print(compare.as_text(Results.read(asked.old), Results.read(asked.new)), end="")
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _show(arguments: Sequence[str]) -> int:
    """A run that was kept: its tables again, its plots, its page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks show")
    parser.add_argument("kept", type=Path)
    parser.add_argument("--plots", type=Path, metavar="FOLDER")
    parser.add_argument("--write-docs", type=Path, metavar="PAGE")
    asked = parser.parse_args(arguments)
    try:
        results = Results.read(asked.kept)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    if asked.plots is not None:
        plots.draw(results, asked.plots)
    if asked.write_docs is not None:
        pages.write(results, asked.write_docs)
    print(report.as_text(results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
