"""The in-process store made to fail as a network does, so that the race runs where no server stands.

What stands behind it does each operation at one moment; the way there and the way back take time, at random, and are
where a call is delayed, lost, cancelled, or overtaken by its own second copy.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence

from serverless_session.deadline import time_left
from serverless_session.errors import StoreTimeout, StoreUnavailable, WriteUncertain
from serverless_session.stores import Conflict, Failed, Operation, Outcome, Read, Store, Write

LATE = 0.3

ODDS: Mapping[str, float] = {
    "refused": 0.01,
    "too slow to be sent": 0.005,
    "answer lost": 0.01,
    "lost": 0.01,
    "late": 0.01,
    "sent again, the first copy late": 0.01,
    "sent again, the first answer lost": 0.01,
}


class LossyStore(Store):
    """`store` behind a faulty way. `sent_twice`: the versions of writes of which two copies were sent."""

    def __init__(self, store: Store, *, seed: int, sent_twice: set[bytes], odds: Mapping[str, float] = ODDS) -> None:
        self.limits = store.limits
        self.injected: Counter[str] = Counter()
        self._store = store
        self._sent_twice = sent_twice
        self._random = random.Random(seed)
        self._faults, self._weights = ["honest", *odds], [1 - sum(odds.values()), *odds.values()]
        self._late = set[asyncio.Task[None]]()

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        (fault,) = self._random.choices(self._faults, self._weights)
        self.injected[fault] += 1
        await self._travel()
        match fault:
            case "refused":
                return [Failed(StoreUnavailable("refused")) for _ in operations]
            case "too slow to be sent":
                await asyncio.sleep(max(time_left(), 0))
                return [Failed(StoreTimeout("was not reached", seconds=0)) for _ in operations]
            case "answer lost" | "sent again, the first answer lost":
                await self._store.perform(*operations)
            case "late" | "sent again, the first copy late":
                self._lands_late(operations)
        if fault in ("answer lost", "lost", "late"):
            await asyncio.sleep(self._random.uniform(0, max(time_left(), 0)))
            return [_unanswered(operation) for operation in operations]
        again = fault.startswith("sent again")
        if again:
            self._sent_twice.update(operation.version for operation in operations if isinstance(operation, Write))
            await self._travel()
        outcomes = await self._store.perform(*operations)
        await self._travel()
        return [
            _unanswered(operation) if again and isinstance(outcome, Conflict) else outcome  # it proves nothing then
            for operation, outcome in zip(operations, outcomes, strict=True)
        ]

    async def _travel(self) -> None:
        await asyncio.sleep(self._random.choice((0, 0, 0.0005, 0.002)))

    def _lands_late(self, operations: Sequence[Operation]) -> None:
        async def land() -> None:
            await asyncio.sleep(self._random.uniform(0, LATE))
            await self._store.perform(*operations)

        late = asyncio.ensure_future(land())
        self._late.add(late)
        late.add_done_callback(self._late.discard)


def _unanswered(operation: Operation) -> Outcome:
    if isinstance(operation, Read):
        return Failed(StoreTimeout("did not answer", seconds=0))
    return Failed(WriteUncertain("sent, and not answered"))
