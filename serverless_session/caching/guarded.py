"""How a cache's operations reach the store: guarded, so that a store that fails costs next to nothing; or surely.

Guarded, a call may take `PATIENCE` and no more, because computing is the other way; once one failed, a `Breaker` keeps
all others from asking until a probe, sent beside the work, was answered. What must not be swallowed (an invalidation)
is carried out surely: it always asks, has the whole time-out, and raises what the store says if it was not done.
"""

from __future__ import annotations

import asyncio
import functools
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from serverless_session.caching.breaker import Breaker, Turn
from serverless_session.deadline import time_left, within
from serverless_session.errors import StoreError, StoreUnavailable, UnreadableValue, ValueTooLarge
from serverless_session.events import tell
from serverless_session.records.records import Records
from serverless_session.records.steps import Steps, carry_out, surely
from serverless_session.shared import SharedState
from serverless_session.snapshot import remember_to_forget
from serverless_session.stores.contract import Failed, Operation, Outcome, Read, Store

_T = TypeVar("_T")

PATIENCE: Final = 0.05
"""Seconds that one guarded call of the store may take."""

STARVED: Final = 1.3
"""What took so many times its patience was kept waiting by its own loop or processor."""


class GuardedStore:
    """The store of `shared`, as caches ask it."""

    def __init__(self, shared: SharedState, records: Records) -> None:
        self._shared = shared
        self._records = records
        self._breakers: weakref.WeakKeyDictionary[Store, Breaker] = weakref.WeakKeyDictionary()
        self._probes: set[asyncio.Task[None]] = set()
        remember_to_forget(self)

    async def forget(self) -> None:
        """A copy of this process finds out for itself how its store is."""
        self._breakers.clear()

    async def carry_out(self, steps: Steps[_T], *, insist: bool = False) -> _T:
        """Do what rules ask for; where the store fails, they are told so.

        `insist`: though the breaker is open. What ends a lease is tried in any case: others wait for it.
        """
        return await carry_out(steps, functools.partial(self.ask, insist=insist), self._shared.clock)

    async def surely(self, make: Callable[[], Steps[_T]]) -> _T:
        """Do what rules ask for, whatever the breaker says. Raises `StoreError` if it was not done."""
        return await surely(make, self._records.perform, self._shared.clock)

    async def ask(self, *operations: Operation, insist: bool = False) -> Sequence[Outcome]:
        """One call of the store; where it fails or rests, each outcome says so."""
        store = self._shared.store
        breaker = self._breakers.get(store)
        if breaker is not None and not breaker.is_closed and not insist:
            turn = breaker.turn(time.monotonic())
            if turn is Turn.PROBE:
                self._probe_beside(store, breaker)
            if turn is not Turn.ASK:
                # Made anew each time: one that is raised again and again keeps every frame that it went through.
                resting = Failed(StoreUnavailable("a store that failed a moment ago is not asked"))
                return [resting] * len(operations)
        in_a_hurry = time_left(PATIENCE) < PATIENCE  # what is not answered then, says nothing of the store
        began = time.monotonic()
        outcomes = await self._within_patience(operations)
        if time.monotonic() - began > STARVED * PATIENCE and _failed(outcomes) and not in_a_hurry:
            # It is this process that had no time. The same operations again settle what is open.
            outcomes = await self._within_patience(operations)
        error = _failed(outcomes)
        if error is not None:
            self._note(store, error, in_a_hurry=in_a_hurry)
        elif breaker is not None:
            if not breaker.is_closed:
                tell("cache.store_back")
            breaker.succeeded()
        return outcomes

    async def _within_patience(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        with within(PATIENCE):
            return await self._records.perform(*operations)

    def _note(self, store: Store, error: Exception, *, in_a_hurry: bool) -> None:
        match error:
            case ValueTooLarge(size_bytes=size, largest_bytes=largest):
                tell("cache.too_large", {"size_bytes": size, "limit_bytes": largest})
            case StoreError() if not in_a_hurry:
                breaker = self._breakers.get(store)
                if breaker is None:
                    breaker = self._breakers[store] = Breaker(2 * self._shared.timeout)
                was_closed = breaker.is_closed
                breaker.failed(time.monotonic())
                if was_closed:
                    tell("cache.store_failed", {"error": error.code, "what": str(error)})
                    if breaker.turn(time.monotonic()) is Turn.PROBE:
                        self._probe_beside(store, breaker)
            case UnreadableValue() if error.code != "damaged-value":
                tell("store.unreadable", {"error": error.code, "what": str(error)})

    def _probe_beside(self, store: Store, breaker: Breaker) -> None:
        probe = asyncio.ensure_future(self._probe(store, breaker))
        self._probes.add(probe)
        probe.add_done_callback(self._probes.discard)

    async def _probe(self, store: Store, breaker: Breaker) -> None:
        """Asks for what is not there. With more time than a guarded call has: it may have to connect."""
        began = time.time()
        try:
            with within(self._shared.timeout):
                (outcome,) = await store.perform(Read(f"{self._shared.namespace}:connect"))
        except BaseException:
            breaker.gave_up(time.monotonic())
            raise
        if isinstance(outcome, Failed) and time.time() - began > self._shared.timeout + PATIENCE:  # we were frozen
            breaker.gave_up(time.monotonic())
            return
        breaker.probed(time.monotonic(), answered=not isinstance(outcome, Failed))
        if not isinstance(outcome, Failed):
            tell("cache.store_back")


def _failed(outcomes: Sequence[Outcome]) -> Exception | None:
    for outcome in outcomes:
        if type(outcome) is Failed:
            return outcome.error
    return None
