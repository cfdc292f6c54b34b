"""How a question is asked: contenders are set up, raced in cases, counted on the wire, and become rows.

A contender whose package is missing, or that does not do the work, is left out by name and with its reason; the others
race on.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final

from benchmarks.counting import CALLS, count
from benchmarks.measuring import SLICES, Complaints, Effort, Run, Spread, Turn, race, ratios, shuffled
from benchmarks.progress import Progress
from benchmarks.questions import Question
from benchmarks.results import LeftOut, Role, Row
from tests.servers import LOOPBACK, Server
from tests.wire import TripCounter

LAST_BEGINNING: Final = 60.0
"""Seconds after which a quick run begins no further race: cold starts come last, and take their time."""

COUNTED_AT_ONCE: Final = 16
ALL_PEERS: Final = "pip install '.[bench]'"


class Unfit(Exception):
    """A contender cannot do this work; the message says why."""


class Place:
    """What a contender is set up with: where its server is, the loop it runs on, and what to close afterwards."""

    def __init__(self, port: int, loop: asyncio.AbstractEventLoop, closing: ExitStack) -> None:
        self.port = port
        self.url = f"redis://{LOOPBACK}:{port}"
        self.loop = loop
        self.many = 1
        self._closing = closing

    def wait(self, work: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(_awaited(work))

    def repeating(self, call: Callable[[], Awaitable[object]]) -> Run:
        """Calls on the loop: one after the other, or by `many` callers at once."""
        many = self.many
        if many == 1:
            return lambda calls: self.loop.run_until_complete(_one_after_the_other(call, calls))
        return lambda calls: self.loop.run_until_complete(_at_once(call, many, calls))

    def close_socket(self, wire: socket.socket) -> None:
        self._closing.callback(wire.close)

    def close_last(self, close: Callable[[], object]) -> None:
        self._closing.callback(close)

    def close_with(self, close: Callable[[], Awaitable[object]]) -> None:
        self._closing.callback(lambda: self.wait(close()))


async def _awaited(work: Awaitable[Any]) -> Any:
    return await work


async def _one_after_the_other(call: Callable[[], Awaitable[object]], calls: int) -> None:
    for _ in range(calls):
        await call()


async def _at_once(call: Callable[[], Awaitable[object]], many: int, calls: int) -> None:
    left = calls

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call()

    await asyncio.gather(*(caller() for _ in range(many)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """Somebody who does the work of a case.

    `bare`: whose figure is taken off for a net one. `at_once`: how many callers. `mend`: what brings its package.
    """

    name: str
    role: Role
    prepare: Callable[[Place], Run]
    bare: str = ""
    at_once: int = 1
    note: str = ""
    mend: str = ALL_PEERS


@dataclass(slots=True, kw_only=True)
class Bench:
    """One run: what is common to all questions, and what they have found so far."""

    server: Server
    dice: Random
    effort: Effort
    quick: bool
    progress: Progress
    rows: list[Row] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    complaints: Complaints = field(default_factory=Complaints)

    def ask(self, question: Question) -> None:
        """What one question fails with, the others survive, and so does what it has found."""
        try:
            question.ask(self)
        except Exception as error:  # noqa: BLE001 - it is named
            self.leave_out(question.name, "the rest of it", "everybody", f"failed: {type(error).__name__}: {error}")

    def leave_out(self, question: str, case: str, contender: str, reason: str, mend: str = "") -> None:
        self.left_out.append(LeftOut(question=question, case=case, contender=contender, reason=reason, mend=mend))

    def race(
        self, question: str, case: str, contenders: Sequence[Contender], *, floor: str, is_counted: bool = True
    ) -> None:
        """Race them, count them, and add a row for each."""
        if self.is_late(question, case):
            return
        self.progress.says(f"{question}: {case}")
        with ExitStack() as closing:
            loop = closing.enter_context(a_loop())
            runs = self._prepared(question, case, contenders, Place(self.server.port, loop, closing))
            if not runs:
                return
            most = max(contender.at_once for contender in contenders)
            turns, gave_up = race(runs, self.effort, self.dice, self.complaints, least=SLICES * most)
        for name, reason in gave_up.items():
            self.leave_out(question, case, name, f"failed while it was timed: {reason}")
        by_name = {contender.name: contender for contender in contenders}
        self._empty()
        for name in turns:
            contender = by_name[name]
            counted = self._counted(question, case, contender) if is_counted else {}
            self.rows.append(
                Row(
                    question=question,
                    case=case,
                    contender=name,
                    role=contender.role,
                    measured=measured(turns, name, floor, contender.bare),
                    counted=counted,
                    note=contender.note,
                )
            )
        self._empty()

    def is_late(self, question: str, case: str, last: float = LAST_BEGINNING) -> bool:
        """A quick run ends in time even where the machine is busy: what is not begun by then is left out."""
        late = self.quick and self.progress.seconds > last
        if late:
            self.leave_out(question, case, "everybody", "a quick run has 90 s, and the machine was busy")
        return late

    def _prepared(self, question: str, case: str, contenders: Sequence[Contender], place: Place) -> dict[str, Run]:
        runs: dict[str, Run] = {}
        for name in shuffled([contender.name for contender in contenders], self.dice):
            contender = next(contender for contender in contenders if contender.name == name)
            run = self.attempt(question, case, contender, place)
            if run is not None:
                runs[name] = run
        return {contender.name: runs[contender.name] for contender in contenders if contender.name in runs}

    def attempt(self, question: str, case: str, contender: Contender, place: Place) -> Run | None:
        """The contender, set up and tried once; None if it was left out."""
        name = contender.name
        try:
            place.many = contender.at_once
            run = contender.prepare(place)
            run(2 * contender.at_once)
        except ImportError as error:
            self.leave_out(question, case, name, f"not installed, or does not import: {error}", contender.mend)
        except Unfit as error:
            self.leave_out(question, case, name, str(error))
        except Exception as error:  # noqa: BLE001 - of somebody else's package, and named
            self.leave_out(question, case, name, f"failed: {type(error).__name__}: {error}")
        else:
            return run
        return None

    def _counted(self, question: str, case: str, contender: Contender) -> Mapping[str, float | str]:
        with ExitStack() as closing:
            wire = closing.enter_context(TripCounter.to(self.server.port))
            loop = closing.enter_context(a_loop())
            few = replace(contender, at_once=min(contender.at_once, COUNTED_AT_ONCE))
            run = self.attempt(question, case, few, Place(wire.port, loop, closing))
            if run is None:
                return {}
            found = count(run, wire, self.server.port, CALLS if few.at_once == 1 else 2 * few.at_once)
        return {
            "trips": found.trips,
            "commands": found.commands,
            "wire_bytes": found.sent_bytes + found.received_bytes,
        }

    def _empty(self) -> None:
        tell_server(self.server.port, b"FLUSHALL")


def measured(turns: Mapping[str, Sequence[Turn]], name: str, floor: str, bare: str) -> dict[str, Spread]:
    """Of one contender: us, CPU us, what is left of them without its framework, and how many times the floor it is."""
    wall = [turn.wall for turn in turns[name]]
    spreads = {
        "per_second": Spread.of([1e6 / us for us in wall]),
        "us": Spread.of(wall),
        "cpu_us": Spread.of([turn.cpu for turn in turns[name]]),
    }
    net = wall
    if bare in turns:
        net = [mine - theirs.wall for mine, theirs in zip(wall, turns[bare], strict=True)]
        spreads["net_us"] = Spread.of(net)
    if floor in turns:
        spreads["ratio"] = Spread.of(ratios(net, [turn.wall for turn in turns[floor]]))
    return spreads


@contextmanager
def a_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that those who ask for "the" loop find, too: Mangum does."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        yield loop
    finally:
        asyncio.set_event_loop(None)
        _end_tasks(loop)
        loop.close()


def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())


def tell_server(port: int, *words: bytes) -> bytes:
    """One command and its answer, as the server sends it; for what is not measured."""
    with socket.create_connection((LOOPBACK, port), timeout=30) as connection:
        connection.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
        return connection.recv(65536)
