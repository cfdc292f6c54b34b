"""What is to become of each operation: faults as a test gives them, one after the other, and the dice they throw.

Nothing here waits or touches a store: `faulty` does what is decided here.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from serverless_session.deadline import Duration, seconds
from serverless_session.errors import StoreUnavailable
from serverless_session.stores.contract import Delete, Operation, Read, Write

Span = Duration | tuple[Duration, Duration]
"""A duration, or the shortest and the longest of which one is drawn each time."""

Kinds = type[Read] | type[Write] | type[Delete] | tuple[type[Read] | type[Write] | type[Delete], ...]
"""Which operations a fault is for: `Read`, or `(Write, Delete)`."""

ALL: Final = (Read, Write, Delete)


@dataclass(slots=True)
class Injected:
    """How many operations were met by a fault. `landed`: lost or delayed ones that were carried out after all."""

    failed: int = 0
    lost: int = 0
    delayed: int = 0
    landed: int = 0


@dataclass(slots=True, kw_only=True)
class Fault:
    """What is to happen to operations `on` these kinds: not to the first `after` of them, then to `times` (all).

    `fails`, `loses`: how likely it is that one fails with `error`, or that its answer is lost; then, `done`: whether it
    is carried out (None: dice), and `late`: how long after its outcome. `delay`: how long each is on the way.
    """

    on: Kinds
    after: int = 0
    times: int | None = None
    error: type[StoreUnavailable] = StoreUnavailable
    fails: float = 0.0
    loses: float = 0.0
    done: bool | None = None
    late: tuple[float, float] = (0.0, 0.0)
    delay: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        kinds = self.on if isinstance(self.on, tuple) else (self.on,)
        if not all(isinstance(kind, type) and kind in (Read, Write, Delete) for kind in kinds):
            raise TypeError("on= takes Read, Write, Delete, or several of them in a tuple")

    def applies(self, operation: Operation) -> bool:
        """Is it this one's turn? Asked once for each operation."""
        if not isinstance(operation, self.on) or self.times == 0:
            return False
        if self.after > 0:
            self.after -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass(slots=True, kw_only=True)
class Fate:
    """What becomes of one operation. It fails with `error`, or is `lost`, or neither."""

    error: type[StoreUnavailable] | None = None
    lost: bool = False
    done: bool = True
    late: float = 0.0
    delay: float = 0.0


class Faults:
    """Faults in the order in which they were given. The first that applies decides; delays go with whatever happens."""

    def __init__(self, dice: random.Random, injected: Injected) -> None:
        self._dice = dice
        self._injected = injected
        self._given: list[Fault] = []

    def __bool__(self) -> bool:
        return bool(self._given)

    def add(self, fault: Fault) -> None:
        """One more, after those that were given before."""
        self._given.append(fault)

    def clear(self) -> None:
        """None from here on."""
        self._given.clear()

    def fate(self, operation: Operation) -> Fate:
        """What becomes of this operation."""
        fate, decided = Fate(), False
        for fault in self._given:
            decides = fault.fails + fault.loses > 0
            if (decides and decided) or not fault.applies(operation):
                continue
            fate.delay += self._draw(fault.delay)
            if decides:
                decided = self._decide(fault, fate)
        self._injected.delayed += fate.delay > 0
        return fate

    def _decide(self, fault: Fault, fate: Fate) -> bool:
        certain = 1.0 in (fault.fails, fault.loses)
        thrown = 0.0 if certain else self._dice.random()
        if thrown < fault.fails:
            fate.error = fault.error
            self._injected.failed += 1
        elif thrown < fault.fails + fault.loses:
            fate.lost = True
            fate.done = self._dice.random() < 0.5 if fault.done is None else fault.done
            fate.late = self._draw(fault.late)
            self._injected.lost += 1
        return fate.lost or fate.error is not None

    def _draw(self, span: tuple[float, float]) -> float:
        shortest, longest = span
        return shortest if shortest == longest else self._dice.uniform(shortest, longest)


def in_seconds(span: Span) -> tuple[float, float]:
    """The shortest and the longest, in seconds. Raises `ValueError` where no duration can be drawn."""
    shortest, longest = span if isinstance(span, tuple) else (span, span)
    if not 0 <= seconds(shortest) <= seconds(longest):
        raise ValueError("a duration is a number of seconds from 0, or the shortest and the longest of them")
    return seconds(shortest), seconds(longest)
