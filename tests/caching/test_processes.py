"""Several processes over one server: who computes, who is killed, and who comes too late."""

import asyncio
import json
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from serverless_session import Cache, CacheContext, CachePolicy, SharedState
from serverless_session.stores import ANYTHING, Delete
from tests.servers import Server, dies_with_us
from tests.sessions.apps import SECRET

LEASE = 1.0


class Worker:
    def __init__(self, *arguments: Any) -> None:
        command = [*dies_with_us(), sys.executable, "-m", "tests.caching.workers", *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def says(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "it ended without a word"
        return json.loads(line)


@contextmanager
def workers(number: int, *arguments: Any) -> Iterator[list[Worker]]:
    started = [Worker(*arguments) for _ in range(number)]
    try:
        yield started
    finally:
        for worker in started:
            worker.process.kill()
            worker.process.wait()
            assert worker.process.stdout is not None
            worker.process.stdout.close()


@pytest.fixture(params=["valkey", "redis7", "memcached"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def name() -> str:
    return f"n{uuid.uuid4().hex}"


def test_fifty_in_each_of_four_processes_compute_once(server: Server, name: str) -> None:
    with workers(4, "many", server.url, time.time() + 1.5, 50, 0.3, name) as started:
        said = [worker.says() for worker in started]
    print(said)
    assert sum(one["computed"] for one in said) == 1
    assert len({value for one in said for value in one["values"]}) == 1


def test_who_is_killed_while_he_computes_is_followed_within_the_lease_time(server: Server, name: str) -> None:
    with workers(1, "hold", server.url, LEASE, 60, "first", name) as (killed,):
        assert killed.says() == {"computing": "first"}
        killed.process.kill()
        began = time.monotonic()
        with workers(1, "hold", server.url, LEASE, 0, "second", name) as (follows,):
            assert follows.says() == {"computing": "second"}
            took = time.monotonic() - began
            assert follows.says() == {"value": "second"}
    print(f"followed {took:.2f} s after the kill, of it the start of a process; the lease is {LEASE} s")
    assert took < LEASE + 5.0


def test_who_was_frozen_and_comes_too_late_keeps_nothing(server: Server, name: str) -> None:
    with workers(1, "hold", server.url, LEASE, 0.3, "late", name) as (frozen,):
        assert frozen.says() == {"computing": "late"}
        Server.pause(frozen)  # type: ignore[arg-type]  # a process is a process
        with workers(1, "hold", server.url, LEASE, 0, "second", name) as (follows,):
            assert [follows.says() for _ in range(3)] == [
                {"computing": "second"},
                {"value": "second"},
                {"kept": "second"},
            ]
        Server.resume(frozen)  # type: ignore[arg-type]
        assert frozen.says() == {"value": "late"}
        assert frozen.says() == {"kept": "second"}


def test_a_value_that_five_hundred_ask_for_a_second_is_computed_once_an_expiry(valkey: Server, name: str) -> None:
    """Here on a real server; `test_expiries` shows it for every cost of a computation."""
    seconds = 4
    with workers(4, "steady", valkey.url, time.time() + 1.5, 125, seconds, 0.05, name) as started:
        said = [worker.says() for worker in started]
    computed, calls = (sum(one[what] for one in said) for what in ("computed", "calls"))
    print(f"{calls} calls in {seconds} s, {computed} computations of a value with a ttl of 1 s")
    assert calls >= 400 * seconds
    assert computed <= 1.25 * seconds + 2, "and the first one, and what a busy machine lets expire"


@pytest.fixture
async def shared(server: Server) -> AsyncIterator[SharedState]:
    shared = SharedState(server.url, secret_key=SECRET, namespace=f"n{uuid.uuid4().hex}")
    yield shared
    await shared.aclose()


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("late", [False, True])
async def test_evicting_stamps_under_load_makes_nothing_stale_valid(shared: SharedState, late: bool) -> None:
    """THREATS 10: the stamps alone are thrown out while readers read and the source changes."""
    caches = [Cache(shared, policy=CachePolicy(ttl=60, stale_while_revalidate=60)) for _ in range(3)]
    source = must_be = computed = asked = 0
    ends = time.monotonic() + 1.0

    async def compute(context: CacheContext) -> int:
        nonlocal computed
        computed += 1
        value = source
        await asyncio.sleep(0.001)
        if late:
            context.tags.append("late")
        return value

    async def read(cache: Cache) -> None:
        nonlocal asked
        while time.monotonic() < ends:
            least = must_be
            value = await cache.get_or_compute("key", compute, tags=[] if late else ["menu"])
            asked += 1
            assert value >= least
            await asyncio.sleep(0)

    async def change() -> None:
        nonlocal source, must_be
        while time.monotonic() < ends:
            source += 1
            changed = source
            await shared.invalidate_tags("late" if late else "menu")
            must_be = changed
            await asyncio.sleep(0.01)

    async def evict() -> None:
        keys = [shared.tag_key("late"), shared.tag_key("menu"), shared.tag_watch, caches[0]._generation]
        while time.monotonic() < ends:
            await shared.store.perform(*(Delete(key, expect=ANYTHING) for key in keys))
            await asyncio.sleep(0.002)

    await asyncio.gather(*(read(cache) for cache in caches for _ in range(3)), change(), evict())
    print(f"{asked} reads, {computed} computations, {source} changes: no stale answer")
    assert must_be > 10
    assert asked > computed > 10
