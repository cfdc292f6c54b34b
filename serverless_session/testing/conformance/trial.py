"""What every group of checks stands on: the store under test, a loop to run it in, and the sizes of the large checks.

A check is written as a coroutine that is given an open store, and collected as an ordinary method, so any test runner
runs it and none needs a plugin. The loop is the check's own and never becomes the thread's current one: whoever else
keeps a loop there (a plugin, say) does not notice.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from serverless_session.deadline import within
from serverless_session.stores.contract import Store
from serverless_session.testing.conformance.verdicts import ContractBroken

T = TypeVar("T", bound="Trial")
Result = TypeVar("Result")


def check(body: Callable[[T, Store], Coroutine[Any, Any, None]]) -> Callable[[T], None]:
    """A method that gives `body` an open store, in a loop of its own, and closes it afterwards."""

    @functools.wraps(body)
    def run(self: T) -> None:
        __tracebackhide__ = True
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner, self.telling_the_seed():
            runner.run(self.with_store(functools.partial(body, self)))

    # Without it, runners that follow `__wrapped__` would ask for `store`.
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    )
    return run


async def together(*steps: Coroutine[Any, Any, Result]) -> list[Result]:
    """The results of coroutines that run side by side. The first failure ends the others and is the one raised."""
    tasks = [asyncio.ensure_future(each) for each in steps]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


class Trial(ABC):
    """The store under test. Sizes are class attributes, for stores that are slow or paid by the call."""

    increments: int = 200
    """How often each of 16 tasks increments one number: 3,200 in all."""

    claimers: int = 50
    """How many tasks claim one key at once."""

    storm_calls: int = 6_000
    """How many calls the storm of cancellations makes."""

    examples: int = 30
    """How many sequences of calls are compared with the model."""

    patience: float = 60.0
    """Seconds that one check may take; also the deadline of the calls in it."""

    seed: int | None = None
    """Of all dice; None: another one for each check. A check that fails names the one it had."""

    _thrown: int | None = None

    @abstractmethod
    async def open_store(self) -> Store:
        """A store, opened for one check and closed after it; a second one where two must see each other's writes."""

    @asynccontextmanager
    async def another_store(self) -> AsyncIterator[Store]:
        """A second store object, open inside, that sees what the first one keeps."""
        store = await self.open_store()
        try:
            yield store
        finally:
            await store.aclose()

    async def with_store(self, body: Callable[[Store], Coroutine[Any, Any, Result]]) -> Result:
        """What `body` makes of an open store, within `patience`."""
        __tracebackhide__ = True
        async with self.another_store() as store:
            return await self.timed(functools.partial(body, store))

    async def timed(self, body: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """The result of `body`, within `patience`."""
        __tracebackhide__ = True
        limit = asyncio.timeout(self.patience + 1.0)
        try:
            with within(self.patience):
                async with limit:
                    return await body()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise ContractBroken(f"the check did not end within {self.patience:g} s", rule=9) from error

    def dice(self) -> random.Random:
        """The dice of this check."""
        self._thrown = random.SystemRandom().randrange(1 << 32) if self.seed is None else self.seed
        return random.Random(self._thrown)

    @contextmanager
    def telling_the_seed(self) -> Iterator[None]:
        """A failure inside tells the seed of the dice that were thrown."""
        try:
            yield
        except Exception as error:
            if self._thrown is not None:
                error.add_note(f"The dice of this check: seed = {self._thrown} in {type(self).__name__}.")
            raise
