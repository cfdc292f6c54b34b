"""What a fresh process costs until it has answered its first event: wall, CPU and modules.

Each program runs in an environment of its own (`environments`), with `-I` and a clean environment of variables, on the
core of everything else. Wall is from before the process is made until it has ended, CPU is what the kernel says that it
used. Files are in the page cache by then: a real sandbox reads them from a disk, so whoever loads more pays more.
"""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.asking import ALL_PEERS, tell_server
from benchmarks.contenders.programs import ALL, FLOOR, Program
from benchmarks.counting import count
from benchmarks.environments import FOLDER, python_with
from benchmarks.measuring import Spread, ratios, shuffled
from benchmarks.questions import Question
from benchmarks.results import Row
from tests.wire import TripCounter

if TYPE_CHECKING:
    from benchmarks.asking import Bench

ROUNDS: Final = 15
QUICK_ROUNDS: Final = 5
LEAST_ROUNDS: Final = 2
LAST_ROUND: Final = 80.0
"""Seconds after which a quick run begins no further round."""

_VARIABLES: Final = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One process, from its beginning to its end, in ms."""

    wall: float
    cpu: float


def ask(bench: Bench) -> None:
    ready: dict[str, list[str]] = {}
    modules: dict[str, int] = {}
    for program in ALL:
        if bench.quick and not program.in_quick:
            continue
        bench.progress.says(f"{QUESTION.name}: an environment for {program.name}, in {FOLDER}")
        try:
            command = _command(program)
        except ImportError as error:
            bench.leave_out(QUESTION.name, program.case, program.name, str(error), ALL_PEERS)
            continue
        tried = _tried([*command, str(bench.server.port), "modules"])
        if tried.returncode != 0:
            said = tried.stderr.strip().splitlines() or ["it ended without a word"]
            bench.leave_out(QUESTION.name, program.case, program.name, f"failed: {said[-1]}")
            continue
        ready[program.name] = command
        modules[program.name] = int(tried.stdout.split()[-1])
    starts: dict[str, list[Start]] = {name: [] for name in ready}
    for number in range(QUICK_ROUNDS if bench.quick else ROUNDS):
        if number >= LEAST_ROUNDS and bench.quick and bench.progress.seconds > LAST_ROUND:
            break
        bench.progress.says(f"{QUESTION.name}: round {number + 1}")
        for name in shuffled(starts, bench.dice):
            tell_server(bench.server.port, b"FLUSHALL")  # a cache begins with a miss each time
            try:
                starts[name].append(start([*ready[name], str(bench.server.port)]))
            except RuntimeError as error:
                del starts[name]
                bench.leave_out(QUESTION.name, "", name, f"failed while it was timed: {error}")
    for program in ALL:
        if program.name in starts:
            bench.rows.append(_row(bench, program, ready[program.name], starts, modules[program.name]))


def _row(bench: Bench, program: Program, command: list[str], starts: dict[str, list[Start]], modules: int) -> Row:
    wall = [one.wall for one in starts[program.name]]
    cpu = [one.cpu for one in starts[program.name]]
    measured = {"ms": Spread.of(wall), "cpu_ms": Spread.of(cpu)}
    if FLOOR in starts:
        floor = starts[FLOOR]
        measured["added_cpu_ms"] = Spread.of([mine - base.cpu for mine, base in zip(cpu, floor, strict=True)])
        measured["ratio"] = Spread.of(ratios(wall, [base.wall for base in floor]))
    with TripCounter.to(bench.server.port) as wire:

        def run(calls: int) -> None:
            for _ in range(calls):
                tell_server(bench.server.port, b"FLUSHALL")
                _tried([*command, str(wire.port)])

        found = count(run, wire, bench.server.port, calls=1)
    return Row(
        question=QUESTION.name,
        case=program.case,
        contender=program.name,
        role=program.role,
        measured=measured,
        counted={"modules": modules, "trips": found.trips, "commands": found.commands},
        note=program.note,
    )


def _command(program: Program) -> list[str]:
    python = python_with(*program.needs)
    script = Path(FOLDER) / f"{program.name.replace(' ', '-').replace(',', '')}.py"
    script.write_text(program.text)
    return [str(python), "-I", str(script)]


def _tried(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=_VARIABLES, capture_output=True, text=True, check=False)


def start(command: list[str]) -> Start:
    """Run it once. Raises `RuntimeError` if it fails, which it did not when it was tried."""
    began = time.perf_counter()
    process = subprocess.Popen(command, env=_VARIABLES, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"a process ended with {process.returncode}")
    return Start(wall=wall * 1000, cpu=(used.ru_utime + used.ru_stime) * 1000)


QUESTION: Final = Question(
    name="cold-start",
    title="Cold start: a fresh process until its first answer",
    about=(
        "Imports, an app, a handler, and one event that uses it; where there is a store, over a new connection. Each "
        "program has a virtual environment of its own with nothing else in it; ours goes through our handler, peers "
        "through Mangum. `+ CPU` is what it adds to Starlette and Mangum, `x floor` is to them in all cases. Files are "
        "in the page cache by then: where they come from a disk, who loads more pays more than is shown."
    ),
    columns=("ms", "cpu_ms", "added_cpu_ms", "ratio", "modules", "trips", "commands"),
    ask=ask,
)
