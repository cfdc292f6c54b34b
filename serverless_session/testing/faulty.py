"""A store around another that fails, is slow, or loses its answers, as a test tells it to.

```python
import asyncio

from serverless_session.errors import StoreUnavailable, WriteUncertain
from serverless_session.stores import ABSENT, MemoryStore, Missing, Write, Written, new_version
from serverless_session.testing import FaultyStore


async def main() -> None:
    store = FaultyStore(MemoryStore())
    store.fail(StoreUnavailable, times=1)  # one operation fails, nothing is done
    store.lose_answers(on=Write, late=60)  # then writes leave, nobody learns what became of them, and they land later
    try:
        await store.read("a")
    except StoreUnavailable:
        pass
    try:
        await store.write("a", b"1", ttl=60, version=new_version(), expect=ABSENT)
    except WriteUncertain:
        assert await store.read("a") == Missing()  # not yet
    await store.land()  # now, rather than in a minute
    assert (await store.read("a")).value == b"1"
    store.heal()
    assert await store.write("b", b"", ttl=60, version=new_version(), expect=ABSENT) == Written()


asyncio.run(main())
```

A fault concerns one operation: its outcome is `Failed`, and those beside it in the call are carried out, as the
contract allows. Faults given one after the other read as a script: the first that still applies to an operation decides
what becomes of it. Delays go with whatever else happens; a call takes as long as the slowest of its operations, and no
longer than its deadline. `at_random` throws dice instead, whose `seed` is in the repr.

The worst that a store may do to a feature is a write whose answer was lost and that lands *after* the feature has
decided what to do: `lose_answers(late=...)`. A delay that is longer than the deadline does the same, and so does a
cancelled call: what has left lands.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Final

from serverless_session.deadline import Duration, seconds, time_left, within
from serverless_session.errors import ServerlessSessionError, StoreTimeout, StoreUnavailable, WriteUncertain
from serverless_session.stores.contract import (
    Delete,
    Failed,
    Operation,
    Outcome,
    Read,
    Store,
    Write,
    refuse_repeated_keys,
)

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
class _Fault:
    """What is to happen to operations: `after` so many of these kinds, `times` times."""

    on: Kinds
    after: int = 0
    times: int | None = None
    error: type[StoreUnavailable] | None = None
    fails: float = 0.0
    loses: float = 0.0
    done: bool | None = None
    late: tuple[float, float] = (0.0, 0.0)
    delay: tuple[float, float] = (0.0, 0.0)

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
class _Fate:
    """What happens to one operation. `late`: seconds after its outcome at which it is carried out, if `done` at all."""

    error: type[StoreUnavailable] | None = None
    lost: bool = False
    done: bool = True
    late: float = 0.0
    delay: float = 0.0


@dataclass(slots=True, eq=False)
class _Landing:
    """A write that is on its way while nobody waits for it any more."""

    operation: Operation
    at: float
    loop: asyncio.AbstractEventLoop
    timer: asyncio.TimerHandle | None = None
    task: asyncio.Task[None] | None = None


class FaultyStore(Store):
    """`store`, with faults. Without any it does what `store` does; closing it closes `store`.

    `seed`: of the dice, which are thrown in the order in which operations come; drawn where it is not given.
    Every fault takes `on` (the kinds of operations it is for; all), `after` (so many of them are spared first; 0) and
    `times` (how many it meets; None: all). `injected` counts what was done.
    """

    def __init__(self, store: Store, *, seed: int | None = None) -> None:
        self._store = store
        self.limits = store.limits
        self.seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
        self.injected = Injected()
        self._dice = random.Random(self.seed)
        self._faults: list[_Fault] = []
        self._late: list[_Landing] = []

    def __repr__(self) -> str:
        return f"FaultyStore({type(self._store).__name__}(...), seed={self.seed})"

    # --- faults -------------------------------------------------------------------------------------------------------

    def fail(
        self,
        error: type[StoreUnavailable] = StoreUnavailable,
        *,
        on: Kinds = ALL,
        after: int = 0,
        times: int | None = None,
    ) -> None:
        """Operations fail with this error, `StoreUnavailable` or `StoreTimeout`, and nothing is done."""
        if not issubclass(error, StoreUnavailable):
            raise TypeError("what fails was not done, so it is StoreUnavailable or StoreTimeout; see lose_answers()")
        self._faults.append(_Fault(on=on, after=after, times=times, error=error, fails=1.0))

    def lose_answers(
        self,
        *,
        done: bool | None = True,
        late: Span = 0.0,
        on: Kinds = ALL,
        after: int = 0,
        times: int | None = None,
    ) -> None:
        """Answers are lost: `WriteUncertain` for writes and deletes, `StoreTimeout` for reads, told at once.

        `done`: whether the operation is carried out; None throws dice. `late`: how long after its outcome that is;
        `float("inf")` waits for `land()`.
        """
        span = _span(late)
        if done is False and span != (0.0, 0.0):
            raise ValueError("what is never done cannot be late")
        self._faults.append(_Fault(on=on, after=after, times=times, loses=1.0, done=done, late=span))

    def delay(self, duration: Span, *, on: Kinds = ALL, after: int = 0, times: int | None = None) -> None:
        """Operations are so long on the way there; `float("inf")` is a store that hangs.

        Where the deadline comes first, reads are a `StoreTimeout` and writes, which have left, `WriteUncertain`: they
        land when the delay is over.
        """
        self._faults.append(_Fault(on=on, after=after, times=times, delay=_span(duration)))

    def at_random(
        self, *, fail: float = 0.0, lose: float = 0.0, delay: Span = 0.0, late: Span = 0.0, on: Kinds = ALL
    ) -> None:
        """Each operation fails with the probability `fail`, and its answer is lost with the probability `lose`.

        Every second one that is lost is carried out, `late` after its outcome. Every one takes a `delay`.
        """
        if not (fail >= 0 and lose >= 0 and fail + lose <= 1):
            raise ValueError("fail and lose are probabilities: 0 to 1, together at most 1")
        fault = _Fault(on=on, error=StoreUnavailable, fails=fail, loses=lose, late=_span(late), delay=_span(delay))
        self._faults.append(fault)

    def heal(self) -> None:
        """No faults from here on. What is late still lands."""
        self._faults.clear()

    async def land(self) -> None:
        """Whatever was lost and is late is carried out now, in the order in which it was to be."""
        for landing in sorted(self._of_this_loop(), key=lambda landing: landing.at):
            await self._begin(landing)

    # --- the store ----------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close the store. What is late and has not landed never will."""
        for landing in self._of_this_loop():
            if landing.timer is not None:
                landing.timer.cancel()
            if landing.task is not None:
                landing.task.cancel()
                await asyncio.wait([landing.task])
            self._forget(landing)
        await self._store.aclose()

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        if not self._faults:
            return await self._store.perform(*operations)
        refuse_repeated_keys(operations)
        fates = [self._fate(operation) for operation in operations]
        allowed = max(time_left(), 0.0)
        with within(allowed):
            delay = max((fate.delay for fate in fates), default=0.0)
            if delay > 0:
                await self._travel(operations, fates, delay, allowed)
            if delay < allowed or delay == 0:
                return await self._arrive(operations, fates, allowed)
        return [self._lost(operation, allowed) for operation in operations]

    def _fate(self, operation: Operation) -> _Fate:
        fate = _Fate()
        if isinstance(operation, Write) and self.limits.refuse(operation.value):
            return fate  # it is decided before anything is sent, so nothing can happen to it
        decided = False
        for fault in self._faults:
            if (decided and fault.fails + fault.loses > 0) or not fault.applies(operation):
                continue
            fate.delay += self._draw(fault.delay)
            chance = self._dice.random() if 0 < fault.fails + fault.loses < 1 else 0.0
            if chance < fault.fails:
                fate.error, decided = fault.error, True
                self.injected.failed += 1
            elif chance < fault.fails + fault.loses:
                fate.lost, decided = True, True
                fate.done = self._dice.random() < 0.5 if fault.done is None else fault.done
                fate.late = self._draw(fault.late)
                self.injected.lost += 1
        if fate.delay > 0:
            self.injected.delayed += 1
        return fate

    async def _travel(
        self, operations: Sequence[Operation], fates: Sequence[_Fate], delay: float, allowed: float
    ) -> None:
        """Wait for the delay or the deadline. What does not arrive in time lands without us."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        arrives = False
        try:
            await asyncio.sleep(min(delay, allowed))
            arrives = delay < allowed
        finally:
            if not arrives:
                left = max(delay - (loop.time() - begun), 0.0)
                for operation, fate in zip(operations, fates, strict=True):
                    if fate.error is None and fate.done:
                        self._land_in(left + fate.late, operation)

    async def _arrive(
        self, operations: Sequence[Operation], fates: Sequence[_Fate], allowed: float
    ) -> Sequence[Outcome]:
        """Carry out what is to be carried out now, in one call; the outcomes of all."""
        outcomes: dict[int, Outcome] = {}
        sent: list[int] = []
        for place, (operation, fate) in enumerate(zip(operations, fates, strict=True)):
            if fate.error is not None:
                outcomes[place] = Failed(_injected(fate.error, allowed))
            elif fate.lost and (not fate.done or fate.late > 0):
                outcomes[place] = self._lost(operation, allowed)
                if fate.done:
                    self._land_in(fate.late, operation)
            else:
                sent.append(place)
        if sent:
            answers = await self._store.perform(*(operations[place] for place in sent))
            for place, answer in zip(sent, answers, strict=True):
                outcomes[place] = self._lost(operations[place], allowed) if fates[place].lost else answer
        return [outcomes[place] for place in range(len(operations))]

    def _lost(self, operation: Operation, allowed: float) -> Failed:
        if isinstance(operation, Read):
            return Failed(_injected(StoreTimeout, allowed))
        return Failed(WriteUncertain("a fault was injected: a write has left and its answer was lost"))

    # --- what lands late ----------------------------------------------------------------------------------------------

    def _land_in(self, delay: float, operation: Operation) -> None:
        if isinstance(operation, Read):
            return
        loop = asyncio.get_running_loop()
        landing = _Landing(operation, loop.time() + delay, loop)
        landing.timer = loop.call_later(delay, self._begin, landing)
        self._late.append(landing)

    def _begin(self, landing: _Landing) -> asyncio.Task[None]:
        if landing.timer is not None:
            landing.timer.cancel()
        if landing.task is None:  # in a context of its own: no call's deadline is one for what has left
            landing.task = landing.loop.create_task(self._carry_out(landing), context=Context())
        return landing.task

    async def _carry_out(self, landing: _Landing) -> None:
        try:
            (outcome,) = await self._store.perform(landing.operation)
            self.injected.landed += not isinstance(outcome, Failed)
        finally:
            self._forget(landing)

    def _forget(self, landing: _Landing) -> None:
        if landing in self._late:
            self._late.remove(landing)

    def _of_this_loop(self) -> list[_Landing]:
        self._late = [landing for landing in self._late if not landing.loop.is_closed()]
        return [landing for landing in self._late if landing.loop is asyncio.get_running_loop()]

    def _draw(self, span: tuple[float, float]) -> float:
        shortest, longest = span
        return shortest if shortest == longest else self._dice.uniform(shortest, longest)


def _span(span: Span) -> tuple[float, float]:
    shortest, longest = span if isinstance(span, tuple) else (span, span)
    if not 0 <= seconds(shortest) <= seconds(longest):
        raise ValueError("a duration is a number of seconds from 0, or the shortest and the longest of them")
    return seconds(shortest), seconds(longest)


def _injected(error: type[StoreUnavailable], allowed: float) -> ServerlessSessionError:
    if issubclass(error, StoreTimeout):
        return error("a fault was injected: the store did not answer", seconds=allowed)
    return error("a fault was injected: the store cannot be reached", mend="nothing: a test wants it so")
