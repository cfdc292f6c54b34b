"""Those who ask for one key at the same time, in one process and loop, share one look at the store: a *flight*.

Nobody shares a flight that had begun before he asked, because something may have been invalidated since; he waits until
it is over, and shares the next one. Where a flight has to compute, that is a task of its own: it goes on for those who
still wait, whoever is cancelled, and is cancelled when nobody waits any more. A flight in which others need not take
part, because there is something to show them meanwhile, leaves the register when it begins to compute.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, Generic, NamedTuple, TypeVar

_T = TypeVar("_T")


class Rest(NamedTuple, Generic[_T]):
    """What a look leaves to be done. `alone`: others are not to wait for it.

    `meanwhile`: what is shown if it is not done within `soft` seconds; does it go on then (`goes_on`)?
    """

    compute: Callable[[], Coroutine[object, object, _T]]
    alone: bool = False
    soft: float | None = None
    meanwhile: _T | None = None
    goes_on: bool = True


class Shared(NamedTuple, Generic[_T]):
    """`of_another`: somebody else looked. `waited`: for a computation of somebody else's."""

    outcome: _T
    of_another: bool
    waited: bool


class Flights(Generic[_T]):
    """The flights of one cache. `may_share(outcome)`: may others have it, too?"""

    def __init__(self, may_share: Callable[[_T], bool] = lambda outcome: True) -> None:
        self._may_share = may_share
        self._flying: dict[Hashable, _Flight[_T]] = {}
        self._asked = 0

    async def share(self, key: Hashable, look: Callable[[], Awaitable[_T | Rest[_T]]]) -> Shared[_T]:
        """What `look` brings, or the flight of somebody else."""
        here = asyncio.get_running_loop(), key
        self._asked = asked = self._asked + 1
        waited = False
        while (flight := self._flying.get(here)) is not None:
            if flight.began > asked:
                outcome = await flight.ride()
                if outcome is not None:
                    return Shared(outcome[0], True, waited or flight.task is not None)
            else:
                await flight.wait()
            waited = waited or flight.task is not None
        return Shared(await self._lead(here, look), False, waited)

    async def _lead(self, here: Hashable, look: Callable[[], Awaitable[_T | Rest[_T]]]) -> _T:
        self._asked = began = self._asked + 1
        self._flying[here] = flight = _Flight[_T](began)
        try:
            found = await look()
        except Exception as error:
            self._land(here, flight)
            flight.end(None, error)
            raise
        except BaseException:
            self._land(here, flight)
            flight.end(None)
            raise
        if not isinstance(found, Rest):
            self._land(here, flight)
            flight.end((found,) if self._may_share(found) else None)
            return found
        if found.alone:
            self._land(here, flight)
            flight.end(None)
        flight.task = asyncio.ensure_future(found.compute())
        flight.task.add_done_callback(lambda task: self._computed(here, flight))
        await flight.wait_for_task(found.soft)
        if flight.task.done() or found.meanwhile is None:
            computed: _T = flight.task.result()
            return computed
        flight.goes_on = found.goes_on
        if not found.goes_on:
            flight.task.cancel()
        meanwhile: _T = found.meanwhile
        return meanwhile

    def _computed(self, here: Hashable, flight: _Flight[_T]) -> None:
        self._land(here, flight)
        assert flight.task is not None
        if flight.task.cancelled():
            flight.end(None)
        elif (error := flight.task.exception()) is not None:
            flight.end(None, error)
        else:
            outcome: _T = flight.task.result()
            flight.end((outcome,) if self._may_share(outcome) else None)

    def _land(self, here: Hashable, flight: _Flight[_T]) -> None:
        if self._flying.get(here) is flight:
            del self._flying[here]


class _Flight(Generic[_T]):
    """`began`: to be compared with when somebody asked. `task`: computes, where that is needed."""

    def __init__(self, began: int) -> None:
        self.began = began
        self.task: asyncio.Task[_T] | None = None
        self.goes_on = False
        self._waiting = 0
        self._over: asyncio.Future[tuple[_T] | None] | None = None

    def end(self, outcome: tuple[_T] | None, error: BaseException | None = None) -> None:
        """It is over; None: it brought nothing."""
        if self._over is None or self._over.done():
            return
        if error is None:
            self._over.set_result(outcome)
        else:
            self._over.set_exception(error)
            self._over.exception()  # somebody may only wait for the end

    async def ride(self) -> tuple[_T] | None:
        """What it brings; None: nothing. Raises what it raised."""
        await self.wait()
        assert self._over is not None
        return self._over.result()

    async def wait(self) -> None:
        """Until it is over."""
        if self._over is None:
            self._over = asyncio.get_running_loop().create_future()
        await self._wait_for(self._over)

    async def wait_for_task(self, longest: float | None) -> None:
        """Until the task is done, or so many seconds are over."""
        assert self.task is not None
        await self._wait_for(self.task, longest)

    async def _wait_for(self, awaited: asyncio.Future[Any], longest: float | None = None) -> None:
        self._waiting += 1
        is_cancelled = True
        try:
            await asyncio.wait([awaited], timeout=longest)
            is_cancelled = False
        finally:
            self._waiting -= 1
            if is_cancelled and not self._waiting and self.task is not None and not self.goes_on:
                self.task.cancel()
