"""How time is taken: one core, interleaved rounds in random order, medians and spread, ratios to the floor of a round.

A round trip on loopback costs three times as much between two cores as on one, and which of them it is changes from
run to run: so the program, its servers and its children are pinned to one core. A machine's speed drifts: so every
round runs each contender of a case once, in an order drawn anew, and each is divided by the floor *of its own round*.
What is reported is the median of the rounds, with the quartiles as its spread.

Microseconds of two runs are never compared; ratios are (`compare`).
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

Run = Callable[[int], None]
"""Does a contender's work that many times."""

SLICES: Final = 4
"""A turn is at least so many calls, of each caller: so that starting and ending is not all there is."""


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


def race(contenders: Mapping[str, Run], effort: Effort, dice: Random, *, least: int = SLICES) -> dict[str, list[Turn]]:
    """The turns of each contender, one a round, of `least` calls or more; what warms up is not counted."""
    calls = {name: calls_a_turn(run, effort.seconds_a_turn, least) for name, run in contenders.items()}
    turns: dict[str, list[Turn]] = {name: [] for name in contenders}
    gc.collect()
    gc.freeze()  # what was imported is not walked again and again while somebody's calls are timed
    try:
        for _ in range(effort.rounds):
            for name in shuffled(contenders, dice):
                turns[name].append(timed(contenders[name], calls[name]))
    finally:
        gc.unfreeze()
    return turns


def calls_a_turn(run: Run, seconds: float, least: int = SLICES) -> int:
    """How many calls take about so long; they warm up what they run, too."""
    run(least)
    calls = least
    while True:
        took = timed(run, calls).wall * calls / 1e6
        if took >= seconds / 4:
            return max(least, round(calls * seconds / took))
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
