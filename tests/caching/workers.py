"""A process of an app, for tests: what it does is its first argument. It says what came of it in lines of JSON.

`python -m tests.caching.workers many URL START` and so on: the tests start several at once.
"""

import asyncio
import json
import os
import sys
import time
from typing import Any

from serverless_session import Cache, SharedState
from serverless_session.caching import guarded, lookup
from tests.sessions.apps import SECRET


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


async def until(start: float) -> None:
    await asyncio.sleep(max(0.0, start - time.time()))


async def many(cache: Cache, start: float, at_once: int, seconds: float) -> None:
    """`at_once` callers of one key at `start`."""
    computed = 0

    async def compute() -> str:
        nonlocal computed
        computed += 1
        await asyncio.sleep(seconds)
        return f"of {os.getpid()}"

    await cache.get_or_compute("warm", compute)
    computed = 0
    await until(start)
    values = await asyncio.gather(*(cache.get_or_compute("key", compute) for _ in range(at_once)))
    say(computed=computed, values=sorted(set(values)))


async def hold(cache: Cache, seconds: float, value: str) -> None:
    """Computes, and says when it begins and what it found at the end."""

    async def compute() -> str:
        say(computing=value)
        await asyncio.sleep(seconds)
        return value

    say(value=await cache.get_or_compute("key", compute))
    say(kept=await cache.get("key"))


async def steady(cache: Cache, start: float, rate: float, seconds: float, cost: float) -> None:
    """`rate` calls a second."""
    computed = calls = 0

    async def compute() -> int:
        nonlocal computed
        computed += 1
        await asyncio.sleep(cost)
        return 1

    await until(start)
    began, asking = time.monotonic(), set()
    while (now := time.monotonic() - began) < seconds:
        while calls < now * rate:
            calls += 1
            asking.add(task := asyncio.ensure_future(cache.get_or_compute("key", compute)))
            task.add_done_callback(asking.discard)
        await asyncio.sleep(0.001)
    if asking:
        await asyncio.wait(asking)
    say(computed=computed, calls=calls)


async def main() -> None:
    kind, url, *rest = sys.argv[1:]
    guarded.PATIENCE = 5.0  # type: ignore[misc]  # on a busy machine a server may take longer
    numbers = [float(one) for one in rest if one.replace(".", "").isdigit()]
    shared = SharedState(url, secret_key=SECRET, namespace="workers")
    match kind:
        case "many":
            await many(Cache(shared, ttl=60, name=rest[-1]), numbers[0], int(numbers[1]), numbers[2])
        case "hold":
            lookup.LEASE_SECONDS = numbers[0]  # type: ignore[misc]
            await hold(Cache(shared, ttl=60, name=rest[-1]), numbers[1], rest[-2])
        case "steady":
            await steady(Cache(shared, ttl=1, name=rest[-1]), *numbers[:4])
    await shared.aclose()


if __name__ == "__main__":
    asyncio.run(main())
