"""Those who ask for one key at the same time, in one process and loop, share one look at the store: a *flight*.

Nobody shares a flight that had begun before he asked, because something may have been invalidated since; he waits until
it is over, and shares the next one. Where a flight has to compute, that is a task of its own: it goes on for those who
still wait, whoever is cancelled, and is cancelled when nobody waits any more. A flight in which others need not take
part, because there is something to show them meanwhile, leaves the register when it begins to compute.
"""

from __future__ import annotations

import asyncio
import math
import weakref
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


class Impatient(Exception):
    """Somebody else's flight took too long to be waited for."""


class Shared(NamedTuple, Generic[_T]):
    """`of_another`: somebody else looked. `waited`: for a computation of somebody else's."""

    outcome: _T
    of_another: bool
    waited: bool


class Flights(Generic[_T]):
    """The flights of one cache. `may_share(outcome)`: may others have it, too? `has_waited(outcome)`: for another's
    computation, elsewhere?"""

    def __init__(
        self,
        may_share: Callable[[_T], bool] = lambda outcome: True,
        has_waited: Callable[[_T], bool] = lambda outcome: False,
    ) -> None:
        self._may_share = may_share
        self._has_waited = has_waited
        self._by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, _Flight[_T]]] = (
            weakref.WeakKeyDictionary()
        )
        self._asked = 0

    async def share(
        self, key: Hashable, look: Callable[[], Awaitable[_T | Rest[_T]]], *, patience: float = math.inf
    ) -> Shared[_T]:
        """What `look` brings, or the flight of somebody else. Raises `Impatient` after so many seconds of waiting.

        Two computations that need each other would wait for ever.
        """
        loop = asyncio.get_running_loop()
        flying = self._by_loop.get(loop)
        if flying is None:
            flying = self._by_loop[loop] = {}
        self._asked = asked = self._asked + 1
        waited, gives_up_at = False, loop.time() + patience
        while (flight := flying.get(key)) is not None:
            left = gives_up_at - loop.time()
            if left <= 0:
                raise Impatient
            if flight.began > asked:
                outcome = await flight.ride(left)
                if outcome is not None:
                    return Shared(outcome[0], True, waited or flight.was_slow)
            else:
                await flight.wait(left)
            waited = waited or flight.was_slow
        return Shared(await self._lead(flying, key, look), False, waited)

    def let_go(self, *keys: Hashable) -> None:
        """Nobody who asks from now on waits for the flights to these keys; without any: for none at all."""
        for flying in list(self._by_loop.values()):
            for key in keys or list(flying):
                flying.pop(key, None)

    async def _lead(
        self, flying: dict[Hashable, _Flight[_T]], key: Hashable, look: Callable[[], Awaitable[_T | Rest[_T]]]
    ) -> _T:
        self._asked = began = self._asked + 1
        flight: _Flight[_T] = _Flight(began)  # `_Flight[_T](began)` takes 1.3 us in place of 0.1
        flying[key] = flight
        try:
            found = await look()
        except Exception as error:
            _land(flying, key, flight)
            flight.end(None, error)
            raise
        except BaseException:
            _land(flying, key, flight)
            flight.end(None)
            raise
        if not isinstance(found, Rest):
            flight.was_slow = self._has_waited(found)
            _land(flying, key, flight)
            flight.end((found,) if self._may_share(found) else None)
            return found
        if found.alone:
            _land(flying, key, flight)
            flight.end(None)
        flight.was_slow = True
        flight.task = asyncio.ensure_future(found.compute())
        flight.task.add_done_callback(lambda task: self._computed(flying, key, flight))
        await flight.wait_for_task(found.soft)
        if flight.task.done() or found.meanwhile is None:
            computed: _T = flight.task.result()
            return computed
        flight.goes_on = found.goes_on
        if not found.goes_on:
            flight.task.cancel()
        meanwhile: _T = found.meanwhile
        return meanwhile

    def _computed(self, flying: dict[Hashable, _Flight[_T]], key: Hashable, flight: _Flight[_T]) -> None:
        _land(flying, key, flight)
        assert flight.task is not None
        if flight.task.cancelled():
            flight.end(None)
        elif (error := flight.task.exception()) is not None:
            flight.end(None, error)
        else:
            outcome: _T = flight.task.result()
            flight.end((outcome,) if self._may_share(outcome) else None)


class _Flight(Generic[_T]):
    """`began`: to be compared with when somebody asked. `task`: computes, where that is needed."""

    def __init__(self, began: int) -> None:
        self.began = began
        self.task: asyncio.Task[_T] | None = None
        self.goes_on = False
        self.was_slow = False
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

    async def ride(self, longest: float) -> tuple[_T] | None:
        """What it brings; None: nothing, or not in time. Raises what it raised."""
        await self.wait(longest)
        assert self._over is not None
        return self._over.result() if self._over.done() else None

    async def wait(self, longest: float) -> None:
        """Until it is over, or so many seconds are."""
        if self._over is None:
            self._over = asyncio.get_running_loop().create_future()
        await self._wait_for(self._over, None if longest == math.inf else longest)

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
                self.goes_on = True  # once: it may be giving its lease back
                self.task.cancel()


def _land(flying: dict[Hashable, _Flight[_T]], key: Hashable, flight: _Flight[_T]) -> None:
    if flying.get(key) is flight:
        del flying[key]


async def alone(look: Awaitable[_T | Rest[_T]]) -> _T:
    """What a look brings that nobody shares."""
    found = await look
    return await found.compute() if isinstance(found, Rest) else found
