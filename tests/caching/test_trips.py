"""How often a cache waits for its store, counted on the wire."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from serverless_session import Cache, CacheContext, CachePolicy, SharedState
from tests.servers import Server
from tests.sessions.apps import SECRET
from tests.wire import TripCounter

TAGS = [f"tag:{number}" for number in range(16)]

ROWS = [
    # what, Redis and Valkey, Memcached
    ("hit", 1, 1),
    ("hit with 16 tags", 1, 1),
    ("miss", 2, 4),
    ("miss with a tag that is known", 2, 4),
    ("miss with 2 tags that are new", 3, 6),
    ("local hit", 0, 0),
    ("get", 1, 1),
    ("get_many", 1, 1),
    ("get_many with tags", 2, 2),
    ("hit with a tag that only the value knows", 2, 2),
    ("the same once it was seen", 1, 1),
    ("refresh", 3, 6),
    ("set", 2, 2),
    ("set over a value", 3, 4),
    ("invalidate", 1, 1),
    ("invalidate_tags", 2, 3),
    ("clear", 1, 1),
]


@pytest.fixture(params=["valkey", "redis7", "redis62", "memcached"])
async def wire(request: pytest.FixtureRequest) -> AsyncIterator[TripCounter]:
    server: Server = request.getfixturevalue(request.param)
    with TripCounter.to(server.port, scheme=server.url.partition(":")[0]) as wire:
        yield wire


@pytest.mark.usefixtures("patient")
async def test_trips_on_the_wire(wire: TripCounter) -> None:
    shared = SharedState(wire.url, secret_key=SECRET)
    cache = Cache(shared, policy=CachePolicy(ttl=60, early_refresh=0), name=wire.url)
    local = CachePolicy(ttl=60, local_ttl=60)
    column = 2 if wire.url.startswith("memcached") else 1

    async def value() -> Any:
        return {"price": 9}

    async def tagged(context: CacheContext) -> Any:
        context.tags.append("late")
        return 1

    @cache.cached()
    async def function(n: int) -> int:
        return n

    await cache.get_or_compute("first", value)  # makes the cache's own stamp
    await cache.get_or_compute("16", value, tags=TAGS)
    await cache.get_or_compute("local", value, policy=local)
    await cache.set("tagged", 1, tags=["a"])
    await function(1)
    other = Cache(shared, ttl=60, name=wire.url)
    await other.get_or_compute("late", tagged)
    acts: dict[str, Callable[[], Awaitable[Any]]] = {
        "hit": lambda: cache.get_or_compute("first", value),
        "hit with 16 tags": lambda: cache.get_or_compute("16", value, tags=TAGS),
        "miss": lambda: cache.get_or_compute("second", value),
        "miss with a tag that is known": lambda: cache.get_or_compute("third", value, tags=["a"]),
        "miss with 2 tags that are new": lambda: cache.get_or_compute("fourth", value, tags=["new", "newer"]),
        "local hit": lambda: cache.get_or_compute("local", value, policy=local),
        "get": lambda: cache.get("first"),
        "get_many": lambda: cache.get_many(["first", "second", "nothing"]),
        "get_many with tags": lambda: cache.get_many(["first", "tagged"]),
        "hit with a tag that only the value knows": lambda: cache.get_or_compute("late", tagged),
        "the same once it was seen": lambda: cache.get_or_compute("late", tagged),
        "refresh": lambda: function.refresh(1),
        "set": lambda: cache.set("put", 1),
        "set over a value": lambda: cache.set("first", 1),
        "invalidate": lambda: cache.invalidate("first"),
        "invalidate_tags": lambda: shared.invalidate_tags("a", "b"),
        "clear": cache.clear,
    }
    counted = {}
    for what, act in acts.items():
        wire.reset()
        await act()
        counted[what] = wire.trips
    await shared.aclose()
    assert counted == {row[0]: row[column] for row in ROWS}
