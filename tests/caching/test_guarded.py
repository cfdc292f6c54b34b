"""A store that fails costs a cache next to nothing, and never an invalidation."""

import asyncio
import logging
import time
import traceback
from typing import Any

import pytest

from serverless_session import Cache, SharedState
from serverless_session.caching.breaker import FIRST_REST, LONGEST_REST, Breaker, Turn
from serverless_session.caching.guarded import PATIENCE, GuardedStore
from serverless_session.errors import StoreError
from serverless_session.records.steps import Steps
from serverless_session.stores import MemoryStore
from tests.caching.shops import Shop
from tests.sessions.apps import SECRET

# --- the breaker ------------------------------------------------------------------------------------------------------


def test_the_first_failure_opens_it_and_one_caller_probes_at_once() -> None:
    breaker = Breaker()
    assert breaker.turn(0.0) is Turn.ASK
    breaker.failed(0.0)
    assert [breaker.turn(0.0) for _ in range(3)] == [Turn.PROBE, Turn.GO_ON, Turn.GO_ON]
    breaker.probed(0.1, answered=True)
    assert breaker.turn(0.1) is Turn.ASK


def test_a_probe_that_never_ends_is_followed_by_a_call_itself() -> None:
    """Its loop has ended, or everything was frozen: it says nothing of the store."""
    breaker = Breaker(patience=2.0)
    breaker.failed(0.0)
    assert breaker.turn(0.0) is Turn.PROBE
    assert [breaker.turn(now) for now in (1.0, 2.1, 2.1)] == [Turn.GO_ON, Turn.ASK, Turn.GO_ON]
    breaker.failed(2.2)
    assert [breaker.turn(now) for now in (2.2, 2.3, 3.0, 3.0)] == [Turn.GO_ON, Turn.GO_ON, Turn.ASK, Turn.GO_ON]
    breaker.succeeded()
    assert breaker.turn(3.1) is Turn.ASK
    breaker.failed(3.2)
    assert breaker.turn(3.2) is Turn.PROBE


def test_a_probe_that_fails_doubles_the_time_to_the_next() -> None:
    breaker, now, rests = Breaker(), 0.0, []
    breaker.failed(now)
    for _ in range(12):
        began = now
        while breaker.turn(now) is not Turn.PROBE:
            now += 0.05
        rests.append(now - began)
        breaker.failed(now)
        breaker.probed(now, answered=False)
    assert rests[:4] == pytest.approx([0.0, FIRST_REST, 2 * FIRST_REST, 4 * FIRST_REST], abs=0.06)
    assert max(rests) == pytest.approx(LONGEST_REST, abs=0.06)


# --- a cache over a store that fails ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["dead", "silent"])
async def test_a_store_that_fails_costs_one_call_its_patience_and_the_others_nothing(how: str) -> None:
    shop = Shop()
    await shop.ask()
    shop.faulty.fail() if how == "dead" else shop.faulty.delay(60.0)
    began = time.monotonic()
    assert [await shop.ask() for _ in range(200)] == ["first"] * 200
    took = time.monotonic() - began
    asked = shop.faulty.injected.failed + shop.faulty.injected.delayed
    assert asked <= 3 + took / FIRST_REST, "one call of two operations, its probe, and the probes after it"
    assert shop.here.stats().errors == 200


async def test_when_a_probe_is_answered_the_cache_is_back(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop()
    await shop.ask()
    with caplog.at_level(logging.INFO, "serverless_session.caching"):
        shop.faulty.fail()
        await shop.ask()
        await asyncio.sleep(0.01)  # the first probe fails
        shop.faulty.heal()
        for _ in range(1000):
            await shop.ask()
            if shop.here.stats().hits:
                break
            await asyncio.sleep(0.01)
    assert shop.here.stats().hits == 1
    assert [record.event for record in caplog.records] == ["cache.store_failed", "cache.store_back"]  # type: ignore[attr-defined]


async def test_a_lease_is_given_back_though_the_store_failed_others_meanwhile() -> None:
    """Others wait for it, in processes that have seen nothing of that."""
    shop = Shop()
    await shop.ask()
    await shop.here.invalidate("key")
    shop.source.seconds = 0.05
    computing = asyncio.ensure_future(shop.ask())
    await asyncio.sleep(0.01)
    shop.faulty.fail(times=3)
    await shop.here.get_or_compute("another", shop.source)  # it fails, and so does its probe
    assert await computing == "first"
    assert await asyncio.wait_for(shop.ask(shop.there), 2.0) == "first"
    assert shop.source.asked == 3


async def test_a_store_that_was_slow_once_is_asked_again_at_once() -> None:
    """A new connection may take longer than a cache waits: the probe has the time."""
    shop = Shop()
    await shop.ask()
    shop.faulty.delay(2 * PATIENCE, times=1)
    await shop.ask()
    for _ in range(100):
        await asyncio.sleep(0)
    await shop.ask()
    assert shop.here.stats().hits == 1


def test_a_store_that_is_always_too_slow_is_asked_less_and_less() -> None:
    breaker, now, asked = Breaker(), 0.0, 0
    while now < 300.0:
        now += 0.05
        if breaker.is_closed:
            asked += 1
            breaker.failed(now)
        elif breaker.turn(now) is Turn.PROBE:
            breaker.probed(now, answered=True)
    assert asked < 25
    breaker.probed(now, answered=True)
    breaker.succeeded()
    breaker.failed(now)
    assert breaker.turn(now) is Turn.PROBE


async def test_a_value_that_is_too_large_is_shown_and_says_nothing_of_the_store(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = Cache(SharedState(MemoryStore(capacity_bytes=2_000), secret_key=SECRET, compress_above_bytes=None), ttl=60)

    async def large() -> str:
        return "x" * 5_000

    async def small() -> str:
        return "x"

    assert await cache.get_or_compute("large", large) == "x" * 5_000
    assert await asyncio.wait_for(cache.get_or_compute("large", large), 1.5) == "x" * 5_000, "nobody waits for it"
    await cache.get_or_compute("small", small)
    await cache.get_or_compute("small", small)
    assert (cache.stats().hits, cache.stats().errors) == (1, 0)
    assert {record.event for record in caplog.records} == {"cache.too_large"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["key", "tags", "stale tags", "clear", "set"])
async def test_what_must_not_be_swallowed_is_done_or_raises(how: str) -> None:
    """THREATS 22: it is tried though the breaker is open."""
    shop = Shop()
    await shop.ask(tags=["menu"])

    async def change() -> None:
        match how:
            case "key":
                await shop.here.invalidate("key")
            case "tags":
                await shop.shared.invalidate_tags("menu")
            case "stale tags":
                await shop.shared.invalidate_tags("menu", stale=True)
            case "clear":
                await shop.here.clear()
            case "set":
                await shop.here.set("key", "second", tags=["menu"])

    shop.faulty.fail()
    await shop.ask()
    with pytest.raises(StoreError):
        await change()
    shop.faulty.heal()
    await change()
    shop.source.value = "second"
    assert await shop.ask(shop.there, tags=["menu"]) == "second"


async def test_reading_without_computing_fails_open_too() -> None:
    shop = Shop()
    await shop.ask()
    shop.faulty.fail()
    assert await shop.here.get("key", "nothing") == "nothing"
    assert await shop.here.get_many(["key"]) == {}


async def test_who_reads_while_the_store_rests_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is raised again and again would keep every frame that it went through."""
    shop = Shop()
    shop.faulty.fail()
    await shop.ask()
    frames: list[int] = []
    carry_out = GuardedStore.carry_out

    async def noting(store: GuardedStore, steps: Steps[Any]) -> Any:
        try:
            return await carry_out(store, steps)
        except StoreError as error:
            frames.append(len(traceback.extract_tb(error.__traceback__)))
            raise

    monkeypatch.setattr(GuardedStore, "carry_out", noting)
    await shop.here.get("key")
    await shop.here.get("key")
    first, second = frames
    assert first == second
