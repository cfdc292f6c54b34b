"""How time is taken: one core, interleaved rounds in random order, medians and spread, ratios to the floor of a round.

A round trip on loopback costs three times as much between two cores as on one, and which of them it is changes from
run to run: so the program, its servers and its children are pinned to one core. A machine's speed drifts: so every
round runs each contender of a case once, in an order drawn anew, and each is divided by the floor *of its own round*.
What is reported is the median of the rounds, with the quartiles as its spread.

Microseconds of two runs are never compared; ratios are (`compare`).
"""

from __future__ import annotations

import gc
import logging
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Self

Run = Callable[[int], None]
"""Does a contender's work that many times."""

SLICES: Final = 4
"""A turn is at least so many calls, of each caller: so that starting and ending is not all there is."""


MOST_CALLS: Final = 100_000

TRIES: Final = 4
REST: Final = 1.2
"""Seconds after a turn that failed: longer than a cache of ours leaves a slow store alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The median of the rounds, and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value, all three are that value."""
        if len(values) < 2:
            return cls(median=values[0], low=values[0], high=values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median=median, low=low, high=high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One contender's part of one round: microseconds a call, on the wall's clock and of this process's CPU."""

    wall: float
    cpu: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured: `rounds`, and for how long a contender runs in each of them."""

    rounds: int
    seconds_a_turn: float


FULL: Final = Effort(rounds=25, seconds_a_turn=0.02)
QUICK: Final = Effort(rounds=5, seconds_a_turn=0.006)


def pin_to_one_core() -> int | None:
    """Keeps this process, and what it starts from now on, on one core; None where the platform cannot."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


class Complaints(logging.Handler):
    """What packages log while they are timed: a call that failed, and was answered in another way, was none."""

    LOGGERS: Final = ("aiocache", "serverless_session")
    """Those that go on without their store when it is too slow for them, and say so."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1

    def __enter__(self) -> Self:
        for name in self.LOGGERS:
            logger = logging.getLogger(name)
            logger.addHandler(self)
            logger.propagate = False
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.LOGGERS:
            logger = logging.getLogger(name)
            logger.removeHandler(self)
            logger.propagate = True


def race(
    contenders: Mapping[str, Run], effort: Effort, dice: Random, complaints: Complaints, *, least: int = SLICES
) -> tuple[dict[str, list[Turn]], dict[str, str]]:
    """The turns of each contender, one a round, of `least` calls or more; and of those that gave up, why.

    What warms up is not counted. A turn in which something failed is taken again after a rest, and again.
    """
    turns: dict[str, list[Turn]] = {name: [] for name in contenders}
    calls: dict[str, int] = {}
    gave_up: dict[str, str] = {}
    gc.collect()
    gc.freeze()  # what was imported is not walked again and again while somebody's calls are timed
    try:
        for number in range(-1, effort.rounds):
            for name in shuffled([name for name in contenders if name not in gave_up], dice):
                try:
                    if number < 0:
                        calls[name] = calls_a_turn(contenders[name], effort.seconds_a_turn, least)
                    else:
                        turns[name].append(_undisturbed(contenders[name], calls[name], complaints))
                except Exception as error:  # noqa: BLE001 - of somebody else's package, and named
                    gave_up[name] = f"{type(error).__name__}: {error}"
    finally:
        gc.unfreeze()
    return {name: taken for name, taken in turns.items() if name not in gave_up}, gave_up


def _undisturbed(run: Run, calls: int, complaints: Complaints) -> Turn:
    for attempt in range(TRIES):
        before = complaints.count
        try:
            turn = timed(run, calls)
        except Exception:
            if attempt == TRIES - 1:
                raise
        else:
            if complaints.count == before:
                return turn
        time.sleep(REST)
    raise RuntimeError("its store was too slow for it, again and again")


def calls_a_turn(run: Run, seconds: float, least: int = SLICES) -> int:
    """How many calls take about so long; they warm up what they run, too."""
    run(least)
    calls = least
    while True:
        took = timed(run, calls).wall * calls / 1e6
        if took >= seconds / 4 or calls >= MOST_CALLS:
            return min(max(least, round(calls * seconds / max(took, 1e-9))), MOST_CALLS)
        calls *= 4


def timed(run: Run, calls: int) -> Turn:
    cpu, wall = time.process_time(), time.perf_counter()
    run(calls)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Turn(wall=wall / calls * 1e6, cpu=cpu / calls * 1e6)


def shuffled(names: Iterable[str], dice: Random) -> list[str]:
    order = list(names)
    dice.shuffle(order)
    return order


def ratios(of: Sequence[float], to: Sequence[float]) -> list[float]:
    """Round by round, so that what slowed down both cancels out."""
    return [mine / theirs for mine, theirs in zip(of, to, strict=True)]
