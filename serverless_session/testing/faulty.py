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
from collections.abc import Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass

from serverless_session.deadline import time_left, within
from serverless_session.errors import ServerlessSessionError, StoreTimeout, StoreUnavailable, WriteUncertain
from serverless_session.stores.contract import Failed, Operation, Outcome, Read, Store, Write, refuse_repeated_keys
from serverless_session.testing.faults import ALL, Fate, Fault, Faults, Injected, Kinds, Span, in_seconds

Leaving = Mapping[int, tuple[Operation, Fate]]
"""By their places in the call: the operations that leave, and what becomes of them."""


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
        self._faults = Faults(random.Random(self.seed), self.injected)
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
        if not (isinstance(error, type) and issubclass(error, StoreUnavailable)):
            raise TypeError("what fails was not done: the class StoreUnavailable or StoreTimeout; see lose_answers()")
        self._faults.add(Fault(on=on, after=after, times=times, error=error, fails=1.0))

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
        span = in_seconds(late)
        if done is False and span != (0.0, 0.0):
            raise ValueError("what is never done cannot be late")
        self._faults.add(Fault(on=on, after=after, times=times, loses=1.0, done=done, late=span))

    def delay(self, duration: Span, *, on: Kinds = ALL, after: int = 0, times: int | None = None) -> None:
        """Operations are so long on the way there; `float("inf")` is a store that hangs.

        Where the deadline comes first, reads are a `StoreTimeout` and writes, which have left, `WriteUncertain`: they
        land when the delay is over.
        """
        self._faults.add(Fault(on=on, after=after, times=times, delay=in_seconds(duration)))

    def at_random(
        self, *, fail: float = 0.0, lose: float = 0.0, delay: Span = 0.0, late: Span = 0.0, on: Kinds = ALL
    ) -> None:
        """Each operation fails with the probability `fail`, and its answer is lost with the probability `lose`.

        Every second one that is lost is carried out, `late` after its outcome. Every one takes a `delay`.
        """
        if not (fail >= 0 and lose >= 0 and fail + lose <= 1):
            raise ValueError("fail and lose are probabilities: 0 to 1, together at most 1")
        fault = Fault(on=on, fails=fail, loses=lose, late=in_seconds(late), delay=in_seconds(delay))
        self._faults.add(fault)

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
        outcomes: dict[int, Outcome] = {}
        leaving: dict[int, tuple[Operation, Fate]] = {}
        for place, operation in enumerate(operations):
            # Decided before anything is sent, so nothing can happen to it.
            too_large = self.limits.refuse(operation.value) if isinstance(operation, Write) else None
            if too_large:
                outcomes[place] = too_large
            else:
                leaving[place] = operation, self._faults.fate(operation)
        if leaving:
            await self._send(leaving, outcomes)
        return [outcomes[place] for place in range(len(operations))]

    async def _send(self, leaving: Leaving, outcomes: dict[int, Outcome]) -> None:
        """Fill in the outcomes, before the deadline: what does not arrive by then lands without us."""
        allowed = max(time_left(), 0.0)
        delay = max(fate.delay for _, fate in leaving.values())
        arrives = delay == 0
        with within(allowed):
            if delay > 0:
                loop = asyncio.get_running_loop()
                begun = loop.time()
                try:
                    await asyncio.sleep(min(delay, allowed))
                    arrives = delay < allowed
                finally:
                    if not arrives:
                        self._go_on(leaving, max(delay - (loop.time() - begun), 0.0))
            if arrives:
                await self._arrive(leaving, outcomes, allowed)
            else:
                outcomes.update({place: _lost(operation, allowed) for place, (operation, _) in leaving.items()})

    async def _arrive(self, leaving: Leaving, outcomes: dict[int, Outcome], allowed: float) -> None:
        """Carry out what is to be carried out now, in one call."""
        now: dict[int, Operation] = {}
        for place, (operation, fate) in leaving.items():
            if fate.error is not None:
                outcomes[place] = Failed(_injected(fate.error, allowed))
            elif fate.lost and (fate.late > 0 or not fate.done):
                outcomes[place] = _lost(operation, allowed)
                if fate.done:
                    self._land_in(fate.late, operation)
            else:
                now[place] = operation
        if now:
            answers = await self._store.perform(*now.values())
            for (place, operation), answer in zip(now.items(), answers, strict=True):
                _, fate = leaving[place]
                outcomes[place] = _lost(operation, allowed) if fate.lost else answer

    # --- what lands late ----------------------------------------------------------------------------------------------

    def _go_on(self, leaving: Leaving, delay: float) -> None:
        """Nobody waits for these any more, and they are still on their way."""
        for operation, fate in leaving.values():
            if fate.error is None and fate.done:
                self._land_in(delay + fate.late, operation)

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


def _lost(operation: Operation, allowed: float) -> Failed:
    if isinstance(operation, Read):
        return Failed(_injected(StoreTimeout, allowed))
    return Failed(WriteUncertain("a fault was injected: a write has left and its answer was lost"))


def _injected(error: type[StoreUnavailable], allowed: float) -> ServerlessSessionError:
    if issubclass(error, StoreTimeout):
        return error("a fault was injected: the store did not answer", seconds=allowed)
    return error("a fault was injected: the store cannot be reached", mend="nothing: a test wants it so")
