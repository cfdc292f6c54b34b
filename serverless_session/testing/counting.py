"""A store around another that counts what it is asked."""

from __future__ import annotations

from collections.abc import Sequence

from serverless_session.stores.contract import Operation, Outcome, Store


class CountingStore(Store):
    """Passes calls on to `store` and counts. `calls`: one call is one trip, on a store that answers in one (Redis)."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.limits = store.limits
        self.calls = 0
        self.operations: list[Operation] = []

    async def perform(self, *operations: Operation) -> Sequence[Outcome]:
        self.calls += 1
        self.operations.extend(operations)
        return await self._store.perform(*operations)

    async def aclose(self) -> None:
        await self._store.aclose()

    def reset(self) -> None:
        """Count from nothing again."""
        self.calls = 0
        self.operations.clear()
