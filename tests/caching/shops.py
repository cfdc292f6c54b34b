"""Two copies of an app over one store, and the source that its values come from."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from serverless_session import Cache, CachePolicy, SharedState
from serverless_session.stores import MemoryStore
from serverless_session.testing import CountingStore, FaultyStore, ManualClock
from tests.sessions.apps import SECRET


class Source:
    """Where values come from: counts how often it is asked, and may be slow or fail."""

    def __init__(self) -> None:
        self.asked = 0
        self.value: Any = "first"
        self.fails: type[Exception] | None = None
        self.seconds = 0.0

    async def __call__(self) -> Any:
        self.asked += 1
        value = self.value
        await asyncio.sleep(self.seconds)
        if self.fails is not None:
            raise self.fails("the source is down")
        return value


class Shop:
    """Two copies of an app over one store."""

    def __init__(self, **policy: Any) -> None:
        self.clock = ManualClock(1_000_000.0)
        self.store = CountingStore(MemoryStore(clock=self.clock))
        self.faulty = FaultyStore(self.store)
        self.shared = SharedState(self.faulty, secret_key=SECRET, clock=self.clock)
        given = CachePolicy(**{"ttl": 60, "early_refresh": 0.0} | policy)
        self.here, self.there = Cache(self.shared, policy=given), Cache(self.shared, policy=given)
        self.source = Source()

    def ask(self, cache: Cache | None = None, **options: Any) -> Awaitable[Any]:
        return (cache or self.here).get_or_compute("key", self.source, **options)


def a_cache(**options: Any) -> Cache:
    store = FaultyStore(MemoryStore())
    return Cache(SharedState(store, secret_key=SECRET), **{"policy": CachePolicy(ttl=60, early_refresh=0)} | options)


def faults_of(cache: Cache) -> FaultyStore:
    store = cache._shared.store
    assert isinstance(store, FaultyStore)
    return store
