"""How often a value is computed that many ask for all the time: with virtual time here, on a real server elsewhere.

500 calls a second over four processes, each with a cache of its own over one store, and a ttl of one second.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from serverless_session import Cache, CachePolicy, SharedState
from serverless_session.caching import computation, lookup
from serverless_session.stores import MemoryStore
from serverless_session.testing import ManualClock
from tests.caching.virtual import VirtualLoop, run
from tests.sessions.apps import SECRET

RATE, PROCESSES, TTL = 500.0, 4, 1.0
SECONDS = 12


class LoopClock(ManualClock):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def time(self) -> float:
        return self._loop.now


class Naive:
    """Looks, computes where nothing is found, and keeps it: what most caches do."""

    def __init__(self, kept: dict[str, float], loop: VirtualLoop) -> None:
        self._kept = kept
        self._loop = loop

    async def get_or_compute(self, key: str, compute: Callable[[], Awaitable[None]]) -> None:
        if self._kept.get(key, 0.0) <= self._loop.now:
            await compute()
            self._kept[key] = self._loop.now + TTL


def computations_a_ttl(cost: float, make: Callable[[VirtualLoop], list[Any]]) -> tuple[float, float]:
    """How often it is computed in a second, and the longest that a caller waits once it is known."""
    loop = VirtualLoop()
    caches, dice = make(loop), random.Random(7)
    computed, longest = 0, 0.0

    async def compute() -> None:
        nonlocal computed
        computed += 1
        await asyncio.sleep(cost)

    async def ask() -> None:
        nonlocal longest
        began = loop.now
        await dice.choice(caches).get_or_compute("key", compute)
        longest = max(longest, loop.now - began)

    async def main() -> None:
        nonlocal computed, longest
        await ask()
        computed, longest, ends = 0, 0.0, loop.now + SECONDS
        asking = set()
        while loop.now < ends:
            asking.add(asyncio.ensure_future(ask()))
            await asyncio.sleep(dice.expovariate(RATE))
        await asyncio.wait(asking)

    run(main(), loop)
    return computed / SECONDS * TTL, longest


def ours(**policy: Any) -> Callable[[VirtualLoop], list[Any]]:
    def make(loop: VirtualLoop) -> list[Any]:
        clock = LoopClock(loop)
        shared = SharedState(MemoryStore(clock=clock), secret_key=SECRET, clock=clock)
        return [Cache(shared, policy=CachePolicy(ttl=TTL, **policy)) for _ in range(PROCESSES)]

    return make


def naive(loop: VirtualLoop) -> list[Any]:
    kept: dict[str, float] = {}
    return [Naive(kept, loop) for _ in range(PROCESSES)]


@pytest.fixture(autouse=True)
def virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a computation costs is measured in virtual time, and dice have a seed."""
    monkeypatch.setattr(computation, "monotonic", lambda: asyncio.get_running_loop().time())
    monkeypatch.setattr(computation, "draw", random.Random(11).random)
    monkeypatch.setattr(lookup, "draw", random.Random(12).random)


@pytest.mark.parametrize("cost", [0.01, 0.05, 0.2, 0.8])
def test_a_value_is_computed_at_most_one_and_a_quarter_times_a_ttl_and_nobody_waits(cost: float) -> None:
    times, longest = computations_a_ttl(cost, ours())
    print(f"cost {cost} s: {times:.2f} computations a ttl, longest wait {longest:.3f} s")
    assert times <= 1.26
    assert longest <= cost + 0.05, "whoever computes"


def test_without_leases_and_early_refresh_it_is_computed_hundreds_of_times() -> None:
    times, _ = computations_a_ttl(0.8, naive)
    print(f"{times:.0f} computations a ttl")
    assert times > 100
    once, longest = computations_a_ttl(0.8, ours(early_refresh=0))
    print(f"with leases alone {once:.2f}, longest wait {longest:.3f} s")
    assert once <= 1.0
