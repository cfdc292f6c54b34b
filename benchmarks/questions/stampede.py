"""Fifty ask for one value at once that nobody has, and computing it takes 20 ms: how often is it computed?

In one process, and in four with fifty each. Each contender is set up as its documentation says against stampedes. The
processes are this module, run as a program; they are told each key at the same moment and say what it took.
"""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.asking import ALL_PEERS, Place, a_loop
from benchmarks.contenders.caches import ALL, CacheContender, Get, Task
from benchmarks.counting import monitor, named
from benchmarks.measuring import Spread, shuffled
from benchmarks.questions import Question
from benchmarks.results import Role, Row

if TYPE_CHECKING:
    from benchmarks.asking import Bench

AT_ONCE: Final = 50
WORK: Final = 0.02
ROUNDS: Final = 9
QUICK_ROUNDS: Final = 3
PROCESSES: Final = 4
NOTICE: Final = 0.03
"""Seconds between the word and the moment at which all begin, on the clock that all processes of a machine have."""

_READY: Final = "ready"
_ROOT: Final = Path(__file__).parent.parent.parent


def case(processes: int) -> str:
    return f"50 at once in each of {processes} processes" if processes > 1 else "50 at once in one process"


def ask(bench: Bench) -> None:
    contenders = [one for one in ALL if not one.is_local and one.role is not Role.LIMIT]
    contenders = [one for one in contenders if one.guards or one.role is Role.FLOOR or one.name == "fastapi-cache2"]
    if bench.is_late(QUESTION.name, ""):
        return
    bench.progress.says(f"{QUESTION.name}: starting {PROCESSES} processes")
    with ExitStack() as closing:
        crowd = Crowd(bench.server.port, PROCESSES)
        closing.callback(crowd.close)
        for one in contenders:
            trouble = crowd.trouble_with(one.name)
            if trouble is not None:
                bench.leave_out(QUESTION.name, "", one.name, trouble, ALL_PEERS)
        contenders = [one for one in contenders if one.name in crowd.ready]
        for processes in (1, PROCESSES):
            bench.progress.says(f"{QUESTION.name}: {case(processes)}")
            found: dict[str, list[tuple[int, float]]] = {one.name: [] for one in contenders}
            for number in range(QUICK_ROUNDS if bench.quick else ROUNDS):
                for name in shuffled(found, bench.dice):
                    found[name].append(crowd.rush(name, f"{name}-{processes}-{number}", processes))
            for one in contenders:
                with monitor(bench.server.port) as seen:
                    crowd.rush(one.name, f"{one.name}-{processes}-counted", processes)
                bench.rows.append(_row(case(processes), one, found[one.name], named(seen, 1)))


def _row(case: str, contender: CacheContender, rounds: list[tuple[int, float]], commands: str) -> Row:
    return Row(
        question=QUESTION.name,
        case=case,
        contender=contender.name,
        role=contender.role,
        measured={
            "computations": Spread.of([float(computed) for computed, _ in rounds]),
            "ms": Spread.of([ms for _, ms in rounds]),
            "ratio": Spread.of([ms / (WORK * 1000) for _, ms in rounds]),
        },
        counted={"commands": commands},
        note=contender.note if contender.role is not Role.FLOOR else "nobody waits for anybody",
    )


class Crowd:
    """Processes that ask one contender at the same moment."""

    def __init__(self, port: int, processes: int) -> None:
        command = [sys.executable, "-m", "benchmarks.questions.stampede", str(port)]
        self._processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=_ROOT)
            for _ in range(processes)
        ]
        self.ready: set[str] = set()

    def trouble_with(self, name: str) -> str | None:
        """Set a contender up in all of them; what one of them says that is against it."""
        for process in self._processes:
            self._tell(process, f"{name}\n")
            said = self._heard(process)
            if said != _READY:
                return said
        self.ready.add(name)
        return None

    def rush(self, name: str, key: str, processes: int) -> tuple[int, float]:
        """How often the value was computed, and the ms until the last had it."""
        asked, at = self._processes[:processes], time.monotonic() + NOTICE
        for process in asked:
            self._tell(process, f"{name}\t{key}\t{at}\n")
        answers = [self._heard(process).split() for process in asked]
        return sum(int(computed) for computed, _ in answers), max(float(ms) for _, ms in answers)

    def close(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()

    @staticmethod
    def _tell(process: subprocess.Popen[str], line: str) -> None:
        assert process.stdin is not None
        process.stdin.write(line)

    @staticmethod
    def _heard(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip() or "its process ended"


def main(port: int) -> None:
    """One of the processes: a line with a name sets up that contender; with a key and a moment, fifty ask then."""
    with ExitStack() as closing:
        place = Place(port, closing.enter_context(a_loop()), closing)
        known: dict[str, tuple[Get, Task]] = {}
        for line in sys.stdin:
            name, *errand = line.strip().split("\t")
            if not errand:
                print(_set_up(name, place, known), flush=True)
                continue
            key, at = errand[0], float(errand[1])
            get, task = known[name]
            task.computed = 0
            time.sleep(max(at - time.monotonic(), 0.0))
            _rush(get, place, key)
            print(task.computed, (time.monotonic() - at) * 1000, flush=True)


def _set_up(name: str, place: Place, known: dict[str, tuple[Get, Task]]) -> str:
    contender = next(one for one in ALL if one.name == name)
    task = Task(place=place, size=1024, work=WORK)
    try:
        get = contender.make(task)
        contender.get(get, place, f"{contender.prefix}warm")
    except ImportError as error:
        return f"not installed, or does not import: {error}"
    known[name] = get, task
    return _READY


def _rush(get: Get, place: Place, key: str) -> None:
    if inspect.iscoroutinefunction(get):

        async def all_at_once() -> None:
            await asyncio.gather(*(get(key) for _ in range(AT_ONCE)))

        place.wait(all_at_once())
    else:
        threads = [threading.Thread(target=get, args=(key,)) for _ in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


QUESTION: Final = Question(
    name="stampede",
    title="Caches: fifty at once for a value that nobody has",
    about=(
        "Computing takes 20 ms, and fifty ask at the same moment, in one process or in each of four. Shown: how often "
        "the value was computed in all, the time until the last of them had it, that time over the 20 ms, and the "
        "commands of all of them together (their trips overlap, and say nothing)."
    ),
    columns=("computations", "ms", "ratio", "commands"),
    ask=ask,
)

if __name__ == "__main__":
    main(int(sys.argv[1]))
