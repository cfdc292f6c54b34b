"""A cache over real servers that are silent, gone or full: it costs little once, and comes back by itself."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from serverless_session import Cache, CachePolicy, SharedState
from serverless_session.errors import StoreError
from tests import servers
from tests.servers import Server
from tests.sessions.apps import SECRET

CALLS = 200
Start = Callable[..., Any]


@pytest.fixture(params=[servers.valkey, servers.memcached], ids=["valkey", "memcached"])
def start(request: pytest.FixtureRequest) -> Start:
    start: Start = request.param
    return start


class App:
    """One process with a cache over one server."""

    def __init__(self, url: str) -> None:
        self.shared = SharedState(url, secret_key=SECRET, timeout=0.5)
        self.cache = Cache(self.shared, policy=CachePolicy(ttl=60, early_refresh=0))
        self.asked = 0

    async def source(self) -> str:
        self.asked += 1
        return "value"

    async def ask(self) -> None:
        assert await self.cache.get_or_compute("key", self.source) == "value"

    async def ask_until_it_hits(self) -> None:
        for _ in range(2000):
            asked = self.asked
            await self.ask()
            if self.asked == asked:
                return
            await asyncio.sleep(0.005)
        raise AssertionError("the cache has not come back")

    async def ask_of_what_fails(self) -> None:
        began = time.monotonic()
        for _ in range(CALLS):
            await self.ask()
        took = time.monotonic() - began
        print(f"{CALLS} calls: {1000 * took:.0f} ms")
        assert took < 0.01 * CALLS, "a second of time-outs each would be minutes"


@contextmanager
def paused(server: Server) -> Iterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()


async def test_a_silent_server_costs_little_and_is_used_again_when_it_speaks(start: Start) -> None:
    with start() as server:
        app = App(server.url)
        await app.ask_until_it_hits()
        with paused(server):
            await app.ask_of_what_fails()
            with pytest.raises(StoreError):
                await app.cache.invalidate("key")
        await app.ask_until_it_hits()
        await app.shared.aclose()


async def test_a_server_that_is_gone_costs_little_and_another_one_is_used(start: Start) -> None:
    with start() as server:
        app = App(server.url)
        await app.ask_until_it_hits()
        server.kill()
        await app.ask_of_what_fails()
        with pytest.raises(StoreError):
            await app.shared.invalidate_tags("menu")
        with start(port=server.port):
            await app.ask_until_it_hits()
            await app.shared.aclose()


async def test_a_server_that_is_full_is_no_cache_and_no_failure() -> None:
    with servers.valkey("--maxmemory", "1", "--maxmemory-policy", "noeviction") as server:
        app = App(server.url)
        await app.ask_of_what_fails()
        with pytest.raises(StoreError):
            await app.cache.set("key", "value")
        await app.shared.aclose()
