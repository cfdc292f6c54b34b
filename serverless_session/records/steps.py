"""What rules without I/O say to whoever carries them out, and who does: `carry_out` once, `surely` until it is known.

Rules are generators: they yield what is to be done, and are sent what came of it. They never wait, look at a clock or
throw dice, so tests can run them in every order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import NamedTuple, TypeVar

from serverless_session.deadline import Clock
from serverless_session.errors import StoreError, WriteUncertain
from serverless_session.stores.contract import Failed, Operation, Outcome

_T = TypeVar("_T")


class Ask(NamedTuple):
    """Do these, in one call of the store. The answer is `Told`."""

    operations: Sequence[Operation]


class Pause(NamedTuple):
    """Wait so many seconds."""

    seconds: float


class Told(NamedTuple):
    """The outcomes of what was asked for, and what time it is now (seconds since 1970)."""

    outcomes: Sequence[Outcome]
    now: float


Steps = Generator[Ask | Pause, Told, _T]


def all_done(told: Told) -> Sequence[Outcome]:
    """The outcomes. Raises what the store says of the first that failed."""
    for outcome in told.outcomes:
        if isinstance(outcome, Failed):
            raise outcome.error
    return told.outcomes


def all_told(told: Told) -> Sequence[Outcome]:
    """The outcomes. Raises what the store says where it could not tell; that something is damaged, it has told."""
    for outcome in told.outcomes:
        if isinstance(outcome, Failed) and isinstance(outcome.error, StoreError):
            raise outcome.error
    return told.outcomes


async def surely(
    make: Callable[[], Steps[_T]], perform: Callable[..., Awaitable[Sequence[Outcome]]], clock: Clock
) -> _T:
    """Do what rules ask for, again from the start where nobody can tell whether it was done.

    Raises what they raise, and `WriteUncertain` if the second time does not settle it either.
    """
    try:
        return await carry_out(make(), perform, clock)
    except WriteUncertain:
        return await carry_out(make(), perform, clock)


async def carry_out(steps: Steps[_T], perform: Callable[..., Awaitable[Sequence[Outcome]]], clock: Clock) -> _T:
    """Do what rules ask for, once: operations by `perform`, pauses on the running loop. Raises what they raise."""
    try:
        asked = next(steps)
        while True:
            outcomes: Sequence[Outcome] = ()
            if isinstance(asked, Pause):
                await asyncio.sleep(asked.seconds)
            elif asked.operations:
                outcomes = await perform(*asked.operations)
            asked = steps.send(Told(outcomes, clock.time()))
    except StopIteration as stop:
        result: _T = stop.value
        return result
