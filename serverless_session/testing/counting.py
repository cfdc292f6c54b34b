"""A store around another that counts what it is asked, so that a test can say how much a feature may ask.

```python
import asyncio

from serverless_session.stores import ABSENT, MemoryStore, new_version
from serverless_session.testing import CountingStore


async def main() -> None:
    store = CountingStore(MemoryStore())
    await store.write("a", b"123", ttl=60, version=new_version(), expect=ABSENT)
    await store.read("a")
    assert (store.calls, store.reads, store.writes, store.deletes) == (2, 1, 1, 0)
    assert (store.sent_bytes, store.received_bytes) == (3, 3)
    store.reset()
    assert store.calls == 0


asyncio.run(main())
```
"""

from __future__ import annotations

from collections.abc import Sequence

from serverless_session.stores.contract import Conflict, Delete, Found, Operation, Outcome, Read, Store, Write


class CountingStore(Store):
    """Passes calls on to `store` and counts them; closing it closes `store`.

    `calls`: how often it was called; a call is one trip on a store that answers in one (Redis). `operations`: all of
    them, in the order in which they came. `sent_bytes`, `received_bytes`: of values alone, those that a `Conflict`
    shows included.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.limits = store.limits
        self.operations: list[Operation] = []
        self.calls = self.sent_bytes = self.received_bytes = 0

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        self.calls += 1
        self.operations.extend(operations)
        self.sent_bytes += sum(len(operation.value) for operation in operations if isinstance(operation, Write))
        outcomes = await self._store.perform(*operations)
        self.received_bytes += sum(_received(outcome) for outcome in outcomes)
        return outcomes

    async def aclose(self) -> None:
        await self._store.aclose()

    @property
    def reads(self) -> int:
        """How many operations were a `Read`."""
        return self._count(Read)

    @property
    def writes(self) -> int:
        """How many operations were a `Write`."""
        return self._count(Write)

    @property
    def deletes(self) -> int:
        """How many operations were a `Delete`."""
        return self._count(Delete)

    def reset(self) -> None:
        """Count from nothing again."""
        self.operations.clear()
        self.calls = self.sent_bytes = self.received_bytes = 0

    def _count(self, kind: type[Operation]) -> int:
        return sum(isinstance(operation, kind) for operation in self.operations)


def _received(outcome: Outcome) -> int:
    shown = outcome.stands if isinstance(outcome, Conflict) else outcome
    return len(shown.value) if isinstance(shown, Found) else 0
